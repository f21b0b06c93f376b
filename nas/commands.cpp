#include "nas/commands.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "blocks/unicode.h"
#include "kernels/cuda_devices.h"
#include "nas/calibrate.h"
#include "nas/interruption.h"
#include "nas/ranks.h"
#include "nas/server_check.h"
#include "nas/units.h"

namespace tangram {
namespace {

/// Options that every verb has.
struct CommonOptions {
  std::string device = "cpu";
  int threads = 0;
  bool json = false, quiet = false;
};

/// Options of the verbs that work on a config.
struct RunOptions {
  std::string config, run_dir;
  std::vector<std::string> overrides;
  int64_t shards = 0;
  bool again = false;
  std::string wave;
  bool calibrate = false;
  std::vector<std::string> servers;
};

/// `layers=0:20`; nothing where there is no text.
std::optional<LayerRange> parse_wave(std::string_view text) {
  if (text.empty()) return std::nullopt;
  constexpr std::string_view kKey = "layers=";
  const size_t colon = text.find(':');
  if (text.starts_with(kKey) && colon != std::string_view::npos) {
    const auto begin = parse_count(text.substr(kKey.size(), colon - kKey.size())),
               end = parse_count(text.substr(colon + 1));
    if (begin && end && 0 <= *begin && *begin < *end) return LayerRange{*begin, *end};
  }
  throw bad_input("--wave {}: no range of layers; write layers=0:20 for the first twenty", text);
}

void add_common(CLI::App& app, CommonOptions& o) {
  app.add_option("--device", o.device, "Where to compute")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "Threads; 0: as many as the process may use")->check(CLI::Range(0, 4096));
  app.add_flag("--json", o.json, "Print the result as JSON");
  app.add_flag("--quiet", o.quiet, "Print no progress, only results and errors");
}

/// The section of the config that --shards of a verb is about.
std::string_view sharded_stage(std::string_view only) { return only == "uptrain" ? only : "distill"; }

void add_run_options(CLI::App& app, RunOptions& o) {
  app.add_option("CONFIG", o.config, "Search config, a YAML file")->required();
  app.add_option("--run-dir", o.run_dir, "Folder of the run instead of the config's run_dir");
  // One value each, so that the config may follow.
  app.add_option("--set", o.overrides, "Override a key: --set distill.tokens=1e6; repeat for more")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void print_results(std::FILE* out, bool json, const SearchConfig& config, const std::vector<StageResult>& results) {
  const std::string run_dir = config.run_dir.lexically_proximate(std::filesystem::current_path()).string();
  if (!json) {
    const std::filesystem::path report = config.run_dir / "report.txt";
    const bool reported = !results.empty() && results.back().name == "report";
    if (reported) fmt::print(out, "{}", read_text_file(report, int64_t{1} << 24));
    fmt::print(out, "Results are in {}\n", run_dir);
    return;
  }
  nlohmann::ordered_json stages = nlohmann::ordered_json::array();
  for (const StageResult& r : results)
    stages.push_back({{"name", r.name}, {"skipped", r.skipped}, {"seconds", r.seconds}});
  fmt::print(out, "{}\n", nlohmann::ordered_json{{"run_dir", run_dir}, {"stages", stages}}.dump(2));
}

std::string version_text() {
  std::string text = "tangram " TANGRAM_VERSION;
  text += kCudaBuilt ? "\nCUDA sources compiled in" : "\nbuilt without CUDA";
  for (const CudaDevice& device : cuda_devices())
    text += fmt::format("\n{}, sm_{}, {}", device.name, device.compute_capability,
                        format_bytes(double(device.memory_bytes)));
  return text;
}

/// The parser of the whole command line, and what the chosen verb does. Not copied: options point into it.
struct CommandLine {
  CLI::App app{"Tangram turns a Llama model into a smaller one that keeps its limits", "tangram"};
  CommonOptions common;
  RunOptions run;
  std::vector<std::pair<CLI::App*, std::function<void(const VerbInput&)>>> verbs;

  CLI::App& add_verb(std::string_view name, std::string_view summary, std::string_view example) {
    CLI::App& verb = *app.add_subcommand(std::string(name), std::string(summary));
    verb.footer(fmt::format("Example:\n  {}", example));
    add_common(verb, common);
    return verb;
  }
};

/// The verb of the pipeline, or of its stage `only`, on all processes that the launcher has started.
void run_stages(const CommandLine& line, std::span<const Stage> stages, std::string_view only, const VerbInput& input,
                Communicator& world) {
  std::vector<std::string> overrides = line.run.overrides;
  if (line.run.shards > 0) overrides.push_back(fmt::format("{}.shards={}", sharded_stage(only), line.run.shards));
  SearchConfig config = read_search_config(line.run.config, overrides);
  if (!line.run.run_dir.empty()) config.run_dir = std::filesystem::absolute(line.run.run_dir).lexically_normal();
  if (const auto servers = servers_called(line.run.servers); !servers.empty()) {
    if (leads(world)) check_students(config, servers, input);
    return;
  }
  if (input.threads > 0) config.threads = input.threads;
  config.threads = threads_of_rank(world, config.threads);
  Context ctx(Context::Options{.device = input.device, .threads = static_cast<int>(config.threads)});
  Console silent(stderr, /*terminal=*/false, /*quiet=*/true);
  Console& console = leads(world) ? input.console : silent;
  const std::vector<StageResult> results =
      run_pipeline(stages, config, {only, line.run.again, parse_wave(line.run.wave)}, ctx, console, world);
  if (!leads(world)) return;
  if (line.run.calibrate) return calibrate_hardware(config, ctx, input);
  print_results(input.out, input.json, config, results);
}

/// Does `work` on all processes that the launcher has started. An Error on one of them ends all.
void on_all_ranks(const std::function<void(Communicator&)>& work) {
  std::optional<Error> early;
  {
    Communicator world = Communicator::world();
    try {
      work(world);
    } catch (const Error& e) {
      if (e.failure == kInterrupted)
        early = leads(world) ? e : Error("", kInterrupted);  // all ranks are here; one of them says it
      else if (world.size() > 1)
        world.abort(e.what(), static_cast<int>(e.failure));  // the others wait for this one
      else
        throw;
    } catch (const std::exception& e) {
      if (world.size() > 1) world.abort(e.what());
      throw;
    }
  }  // MPI ends without an error
  if (early) throw *early;
}

void add_stage_verb(CommandLine& line, std::string_view name, std::string_view summary, std::span<const Stage> stages,
                    std::string_view only, bool has_namesake = false) {
  std::string example = fmt::format("tangram {} configs/quickstart.yaml", name);
  if (has_namesake)
    example += fmt::format(
        "\n\nWithout a config, on a file or folder of your own, it is another verb: "
        "tangram {} FILE_OR_FOLDER --help",
        name);
  CLI::App& verb = line.add_verb(name, summary, example);
  add_run_options(verb, line.run);
  verb.add_flag("--again", line.run.again,
                only == "measure" ? "Measure what is known, too" : "Run what is complete, too");
  if (only.empty() || only == "distill" || only == "uptrain")
    verb.add_option("--shards", line.run.shards,
                    fmt::format("Short for --set {}.shards=R: gradients add up over R equal parts of each step, which "
                                "up to R replicas share and one process computes with the same bits; a power of two "
                                "that divides micro_batches",
                                sharded_stage(only)))
        ->type_name("R")
        ->check(CLI::Range(1, 1 << 20));
  if (only == "distill")
    verb.add_option(
            "--wave", line.run.wave,
            "Depth first: train only these layers now. The boundary before the first of them is the one that an "
            "earlier wave left, or is computed by a forward pass")
        ->type_name("layers=BEGIN:END");
  if (only == "measure")
    verb.add_flag("--calibrate", line.run.calibrate,
                  "Then fit the roofline model to what was measured, and write this machine's description, for the key "
                  "hardware of other configs, to calibrated.yaml in the run's folder");
  if (only == "export")
    verb.add_option("--check", line.run.servers,
                    "Write nothing; say of each student of the search what a server makes of it: llama.cpp, vllm, "
                    "sglang, tensorrt-llm, megatron, or all; repeat for more. Ends with exit code 3 if one of them "
                    "cannot run one")
        ->type_name("SERVER")
        ->expected(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  line.verbs.emplace_back(&verb, [&line, stages, only](const VerbInput& input) {
    const ListenForInterruption listen;
    on_all_ranks([&](Communicator& world) { run_stages(line, stages, only, input, world); });
  });
}

/// A name may be a stage on a config and a verb on a model folder: `evaluate`. A YAML file among the arguments, or
/// nothing but options, means the first. Whether the file or folder is there does not count: it is to be missed by
/// name.
bool means_model(const std::vector<std::string>& arguments) {
  const auto is_yaml = [](const std::string& a) { return a.ends_with(".yaml") || a.ends_with(".yml"); };
  const auto is_option = [](const std::string& a) { return a.starts_with("-"); };
  return !arguments.empty() && std::none_of(arguments.begin(), arguments.end(), is_yaml) &&
         !std::all_of(arguments.begin() + 1, arguments.end(), is_option);
}

void add_verbs(CommandLine& line, const std::vector<std::string>& arguments, std::span<const Stage> stages,
               std::span<const ModelVerb> model_verbs) {
  const auto on_model = [&](std::string_view name) {
    return std::any_of(model_verbs.begin(), model_verbs.end(), [&](const ModelVerb& v) { return v.name == name; });
  };
  const auto is_stage = [&](std::string_view name) {
    return std::any_of(stages.begin(), stages.end(), [&](const Stage& s) { return s.name == name; });
  };
  const bool model = means_model(arguments);
  add_stage_verb(line, "run", "Run all stages of a search, from where it stands", stages, "");
  for (const Stage& stage : stages)
    if (!model || !on_model(stage.name))
      add_stage_verb(line, stage.name, stage.summary, stages, stage.name, on_model(stage.name));
  for (const ModelVerb& model_verb : model_verbs) {
    if (!model && is_stage(model_verb.name)) continue;
    CLI::App& verb = line.add_verb(model_verb.name, model_verb.summary, model_verb.example);
    line.verbs.emplace_back(&verb, model_verb.add(verb));
  }
}

void check_gpu() {
  if (!kCudaBuilt) throw bad_input("--device cuda: this program was built without CUDA; allowed: cpu");
  if (cuda_devices().empty()) throw bad_input("--device cuda: no GPU is to be seen here; allowed: cpu");
}

void check_verb(const std::vector<std::string>& arguments, const CommandLine& line) {
  if (arguments.empty()) throw bad_input("no verb; tangram --help lists them");
  if (arguments[0].starts_with("-")) return;
  std::vector<std::string> names;
  for (const auto& [verb, run] : line.verbs) names.push_back(verb->get_name());
  if (std::find(names.begin(), names.end(), arguments[0]) == names.end())
    throw unknown_name("verb", arguments[0], names);
}

void run_checked(const std::vector<std::string>& arguments, std::span<const Stage> stages,
                 std::span<const ModelVerb> model_verbs, std::FILE* out, std::FILE* err) {
  CommandLine line;
  line.app.set_version_flag("--version", version_text());
  line.app.require_subcommand(1);
  line.app.footer(
      "Exit codes:\n"
      "  0  done\n"
      "  1  failed: a full disk, a lost file, a process that does not answer\n"
      "  2  bad usage or input; the message says what to change\n"
      "  3  the limits cannot be met; the message says which, and what could be\n"
      " 75  interrupted by SIGUSR1, SIGTERM or SIGINT in good order: run it again to go on\n"
      "128 + n  killed by signal n");
  add_verbs(line, arguments, stages, model_verbs);
  check_verb(arguments, line);
  try {
    line.app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // CLI11 takes them reversed
  } catch (const CLI::Success& asked) {
    // --help and --version arrive as exceptions, with their text written on exit.
    std::ostringstream text, no_errors;
    line.app.exit(asked, text, no_errors);
    fmt::print(out, "{}", text.str());
    return;
  } catch (const CLI::ParseError& e) {
    throw bad_input("{}; see tangram {} --help", e.what(), arguments[0].starts_with("-") ? "" : arguments[0]);
  }
  if (line.common.device == "cuda") check_gpu();

  const auto chosen =
      std::find_if(line.verbs.begin(), line.verbs.end(), [](const auto& verb) { return verb.first->parsed(); });
  Console console(err, isatty(fileno(err)) == 1, line.common.quiet);
  const Device device = line.common.device == "cuda" ? Device::cuda : Device::cpu;
  chosen->second({console, out, device, line.common.threads, line.common.json});
  if (std::fflush(out) != 0) throw Error(fmt::format("writing the result: {}", std::strerror(errno)));
}

}  // namespace

int run_command_line(const std::vector<std::string>& arguments, std::span<const Stage> stages,
                     std::span<const ModelVerb> model_verbs, std::FILE* out, std::FILE* err) {
  // What an input file or argument has may be quoted in a message, and may not steer a terminal or forge a line there.
  // Only the answer to limits that cannot be met has several lines.
  const auto fail = [&](std::string_view message, Failure failure) {
    if (!message.empty())
      fmt::print(err, "tangram: {}\n", printable(message, failure == Failure::infeasible ? "\n" : ""));
    return static_cast<int>(failure);
  };
  choose_gpu_of_rank();
  try {
    run_checked(arguments, stages, model_verbs, out, err);
    return 0;
  } catch (const Error& e) {
    return fail(e.what(), e.failure);
  } catch (const std::filesystem::filesystem_error& e) {
    return fail(fmt::format("{}: {}", e.path1().string(), e.code().message()), Failure::failed);
  } catch (const std::bad_alloc&) {
    return fail("out of memory", Failure::failed);
  } catch (const std::exception& e) {
    return fail(e.what(), Failure::failed);
  }
}

}  // namespace tangram
