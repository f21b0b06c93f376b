#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "blocks/config_json.h"
#include "nas/model_export.h"
#include "nas/model_options.h"
#include "nas/model_verbs.h"
#include "nas/units.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  std::string out, format, shard = "5 GiB";
  std::vector<std::string> servers;
};

std::vector<const Server*> servers_of(const Options& o) {
  std::vector<const Server*> servers;
  for (const std::string& name : o.servers) {
    if (name == "all")
      for (const Server& server : all_servers()) servers.push_back(&server);
    else
      servers.push_back(&server_called(name));
  }
  return servers;
}

ExportFormat format_of(const Options& o) {
  if (o.format.empty()) return o.out.ends_with(".gguf") ? ExportFormat::gguf : ExportFormat::huggingface;
  for (size_t i = 0; i < std::size(kExportNames); ++i)
    if (o.format == kExportNames[i]) return static_cast<ExportFormat>(i);
  throw unknown_name("--format", o.format, std::vector<std::string>(std::begin(kExportNames), std::end(kExportNames)));
}

nlohmann::ordered_json changes_json(std::span<const FormChange> changes) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const FormChange& c : changes) list.push_back({{"layer", c.layer}, {"what", c.text}});
  return list;
}

/// Needs no weights: a config.json is enough. False if a server cannot run the model.
bool check_servers(const Options& o, const VerbInput& in) {
  const ModelDescription model = read_config(o.model.folder);
  const std::vector<const Server*> servers = servers_of(o);
  bool all_run = true;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const Server* server : servers) {
    const ServerCheck check = check_server(*server, model.architecture, model.config);
    all_run = all_run && check.runs();
    json.push_back({{"server", server->name},
                    {"version", server->version},
                    {"runs", check.runs()},
                    {"rewritten", changes_json(check.plan.changes)},
                    {"obstacles", changes_json(check.obstacles)}});
  }
  if (in.json)
    fmt::print(in.out, "{}\n", json.dump(2));
  else
    fmt::print(in.out, "{}", servers_text(servers, model.architecture, model.config));
  return all_run;
}

void write_model(const Options& o, const VerbInput& in) {
  const std::optional<double> shard = parse_bytes(o.shard);
  if (!shard || !(*shard >= 1)) throw bad_input("--max-shard {}: write a size such as 5 GiB", o.shard);
  const ExportFormat format = format_of(o);
  std::error_code error;
  if (fs::equivalent(o.model.folder, o.out, error))
    throw bad_input("--out {}: is the model itself; give another place", o.out);
  Context ctx(Context::Options{.device = Device::cpu, .threads = in.threads});
  const Model model = load_model(o.model, ctx);
  const fs::path from = fs::is_directory(o.model.folder, error) ? fs::path(o.model.folder) : fs::path();
  export_model(o.out, model, format,
               {.tokenizer_from = from,
                .name = fs::path(o.out).stem().string(),
                .max_shard_bytes = static_cast<int64_t>(*shard),
                .threads = ctx.threads,
                .release = true},
               in.console);
  in.console.say("written to {}", o.out);
}

void run_export(const Options& o, const VerbInput& in) {
  if (o.servers.empty() && o.out.empty()) throw bad_input("nothing to do: give --out PATH, --check SERVER, or both");
  const bool all_run = o.servers.empty() || check_servers(o, in);
  if (!o.out.empty()) write_model(o, in);
  if (!all_run) throw Error("not all of these servers can run this model", Failure::infeasible);
}

}  // namespace

std::function<void(const VerbInput&)> add_export(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  add_model_options(app, o->model);
  app.add_option("--out", o->out, "Folder, or .gguf file, to write");
  app.add_option(
      "--format", o->format,
      "huggingface; gguf with matrices as they are stored, gguf_f16 or gguf_q8_0. Without it the name of --out "
      "decides");
  app.add_option("--max-shard", o->shard, "Of huggingface: no file of weights is larger")->capture_default_str();
  app.add_option("--check", o->servers,
                 "Say what a server makes of this architecture: llama.cpp, vllm, sglang, tensorrt-llm, megatron, or "
                 "all; repeat for more. Needs only a config.json; ends with exit code 3 if one of them cannot run it")
      ->type_name("SERVER")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return [o](const VerbInput& in) { run_export(*o, in); };
}

}  // namespace tangram
