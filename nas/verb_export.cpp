#include <CLI/CLI.hpp>
#include <memory>

#include "blocks/config_json.h"
#include "nas/model_export.h"
#include "nas/model_options.h"
#include "nas/model_verbs.h"
#include "nas/server_check.h"
#include "nas/units.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Options {
  ModelOptions model;
  std::string out, format, shard = "5 GiB";
  std::vector<std::string> servers;
  std::string target;
  bool pad = false;
};

ExportFormat format_called(const std::string& name) {
  for (size_t i = 0; i < std::size(kExportNames); ++i)
    if (name == kExportNames[i]) return static_cast<ExportFormat>(i);
  throw unknown_name("--format", name, std::vector<std::string>(std::begin(kExportNames), std::end(kExportNames)));
}

ExportFormat format_of(const Options& o, const Server* target) {
  if (!target && o.format.empty()) return o.out.ends_with(".gguf") ? ExportFormat::gguf : ExportFormat::huggingface;
  const bool reads_gguf = target && target->format == ModelFormat::gguf;
  if (o.format.empty()) return reads_gguf ? ExportFormat::gguf : ExportFormat::huggingface;
  const ExportFormat format = format_called(o.format);
  if (target && (reads_gguf ? !is_gguf(format) : format != ExportFormat::huggingface))
    throw bad_input("--format {}: {} reads {}", o.format, target->name, reads_gguf ? "gguf" : "huggingface");
  return format;
}

void write_model(const Options& o, const VerbInput& in) {
  const std::optional<double> shard = parse_bytes(o.shard);
  if (!shard || !(*shard >= 1)) throw bad_input("--max-shard {}: write a size such as 5 GiB", o.shard);
  const Server* target = o.target.empty() ? nullptr : &server_called(o.target);
  const ExportFormat format = format_of(o, target);
  std::error_code error;
  if (fs::equivalent(o.model.folder, o.out, error))
    throw bad_input("--out {}: is the model itself; give another place", o.out);
  Context ctx(Context::Options{.device = Device::cpu, .threads = in.threads});
  const Model model = adapted_model(load_model(o.model, ctx), target, o.pad, in.console);
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

/// Needs no weights: a config.json is enough. False if a server cannot run the model.
bool check(const Options& o, const VerbInput& in) {
  const std::vector<const Server*> servers = servers_called(o.servers);
  if (servers.empty()) return true;
  const ModelDescription model = read_config(o.model.folder);
  return print_servers(std::vector<ModelForm>{{"", model.architecture, model.config}}, servers, in);
}

void run_export(const Options& o, const VerbInput& in) {
  if (o.servers.empty() && o.out.empty()) throw bad_input("nothing to do: give --out PATH, --check SERVER, or both");
  if (o.out.empty() && (o.pad || !o.target.empty()))
    throw bad_input("--for and --pad say how to write: give --out PATH");
  const bool all_run = check(o, in);
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
      "huggingface, which says by block_configs what irregular blocks are; per_layer_config, the same for readers of "
      "that; gguf with matrices as they are stored, gguf_f16 or gguf_q8_0. Without it --for or the name of --out "
      "decides");
  app.add_option("--for", o->target,
                 "Write what this server runs: blocks that it would get wrong in forms that compute exactly the same, "
                 "and the format that it reads. Ends with exit code 3 if it cannot run the model")
      ->type_name("SERVER");
  app.add_flag("--pad", o->pad, "Fill up FFNs with zero channels to multiples of 256, which every ffn_mult can say");
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
