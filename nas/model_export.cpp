#include "nas/model_export.h"

#include <algorithm>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "blocks/gguf_model.h"
#include "blocks/json.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMostConfigBytes = 16 << 20;

GgufType type_of(ExportFormat format, DType stored) {
  if (format == ExportFormat::gguf_f16) return GgufType::f16;
  if (format == ExportFormat::gguf_q8_0) return GgufType::q8_0;
  return stored == DType::bf16 ? GgufType::bf16 : GgufType::f32;
}

/// The template that turns a conversation into a prompt: a file of its own, or a key of tokenizer_config.json.
std::string chat_template(const fs::path& folder) {
  std::error_code error;
  if (fs::exists(folder / "chat_template.jinja", error))
    return read_text_file(folder / "chat_template.jinja", kMostConfigBytes);
  const fs::path path = folder / "tokenizer_config.json";
  if (!fs::exists(path, error)) return "";
  const nlohmann::json config = parse_json(read_text_file(path, kMostConfigBytes), path.string(), 16);
  const auto found = config.is_object() ? config.find("chat_template") : config.end();
  return found != config.end() && found->is_string() ? found->get<std::string>() : "";
}

void export_gguf(const fs::path& path, const Model& model, GgufType type, const ExportOptions& options,
                 Console& console) {
  GgufOptions gguf{.type = type, .name = options.name, .threads = options.threads, .release = options.release};
  std::optional<Tokenizer> tokenizer;
  std::error_code error;
  if (fs::exists(options.tokenizer_from / "tokenizer.json", error)) try {
      tokenizer = load_tokenizer(options.tokenizer_from);
      gguf_tokenizer(*tokenizer, model.config.vocab_size);
      gguf.tokenizer = &*tokenizer;
      gguf.chat_template = chat_template(options.tokenizer_from);
    } catch (const Error& e) {
      console.say("{}: without its tokenizer: {}", path.string(), e.what());
    }
  for (const FormChange& change : write_gguf_model(path, model, gguf))
    console.say("{}: layer {}: {}", path.string(), change.layer, change.text);
}

/// One line for each text, with the layers that have it.
std::string changes_text(std::span<const FormChange> changes) {
  std::vector<std::string> texts;
  for (const FormChange& c : changes)
    if (std::find(texts.begin(), texts.end(), c.text) == texts.end()) texts.push_back(c.text);
  std::string lines;
  for (const std::string& text : texts) {
    std::vector<int64_t> layers;
    for (const FormChange& c : changes)
      if (c.text == text) layers.push_back(c.layer);
    std::sort(layers.begin(), layers.end());
    lines += fmt::format("    layer{} {}: {}\n", layers.size() > 1 ? "s" : "", layer_ranges(layers), text);
  }
  return lines;
}

}  // namespace

void export_model(const fs::path& path, const Model& model, ExportFormat format, const ExportOptions& options,
                  Console& console) {
  if (format == ExportFormat::huggingface)
    save_model(path, model,
               {.tokenizer_from = options.tokenizer_from,
                .max_shard_bytes = options.max_shard_bytes,
                .release = options.release});
  else
    export_gguf(path, model, type_of(format, model.dtype), options, console);
}

std::string layer_ranges(std::span<const int64_t> layers) {
  std::string text;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i + 1;
    while (end < layers.size() && layers[end] == layers[end - 1] + 1) ++end;
    if (!text.empty()) text += ", ";
    text += end - i > 1 ? fmt::format("{}-{}", layers[i], layers[end - 1]) : fmt::format("{}", layers[i]);
    i = end;
  }
  return text;
}

std::string servers_text(std::span<const Server* const> servers, const Architecture& architecture,
                         const ModelConfig& config) {
  std::string text;
  for (const Server* server : servers) {
    const ServerCheck check = check_server(*server, architecture, config);
    const bool plain = architecture == teacher_architecture(config);
    text += fmt::format("{} ({}): {}\n", server->name, server->version,
                        !check.runs()                ? "cannot run this model"
                        : plain                      ? "runs it, a plain Llama"
                        : check.plan.changes.empty() ? "runs it as it is"
                                                     : "runs it, with parts in other forms that compute the same");
    if (!check.runs())
      text += changes_text(check.obstacles);
    else
      text += changes_text(check.plan.changes);
    if (check.runs() && !plain) text += fmt::format("    {}\n", server->remark);
  }
  return text;
}

}  // namespace tangram
