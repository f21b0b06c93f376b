#include "blocks/servers.h"

#include <algorithm>
#include <charconv>

#include "blocks/gguf_model.h"

namespace tangram {
namespace {

constexpr ReaderForms kWithoutLinear{.linear_attention = false, .ffn_alone_first = false};  // vLLM, Megatron
// Both take widths from ffn_mult alone, which counts in steps of 256.
constexpr ReaderForms kSglangForms{.linear_attention = false, .ffn_alone_first = false, .width_multiple = kFfnMultStep};
constexpr ReaderForms kTensorRtForms{.width_multiple = kFfnMultStep};

constexpr Server kServers[] = {
    {.name = "llama.cpp",
     .format = ModelFormat::gguf,
     .version = "build 10587",
     .forms = kGgufForms,
     .biased_ffn = true,
     .layers_at_most = kGgufMostLayers,
     .remark = "layers go to GPUs by count, not by size: give --tensor-split for an irregular model"},
    {.name = "vllm",
     .format = ModelFormat::huggingface,
     .version = "commit 00bd149",
     .forms = kWithoutLinear,
     .remark = "start it with --trust-remote-code"},
    {.name = "sglang",
     .format = ModelFormat::huggingface,
     .version = "commit 15a024d",
     .forms = kSglangForms,
     .mixed_kv_heads = false,
     .remark = "start it with --trust-remote-code; it keeps a KV cache for layers without attention, too"},
    {.name = "tensorrt-llm",
     .format = ModelFormat::huggingface,
     .version = "commit 0193dbd, PyTorch backend",
     .forms = kTensorRtForms,
     .linear_ffn = true,
     .remark = "allow remote code (trust_remote_code)"},
    {.name = "megatron",
     .format = ModelFormat::huggingface,
     .version = "commit 1296a81, with its bridge",
     .forms = kWithoutLinear,
     .mixed_kv_heads = false,
     .remark = "its bridge takes the KV heads of all layers from the first, and has no names for linear subblocks"},
};

/// A subblock by name: its kind, and its size where it has one. `variant` is null for names that no variant has.
struct NamedKind {
  const Variant* variant = nullptr;
  int64_t size = 0;
};

NamedKind kind_called(Subblock subblock, std::string_view name) {
  for (const Variant* v : all_variants()) {
    if (v->subblock != subblock || !name.starts_with(v->name)) continue;
    std::string_view rest = name.substr(v->name.size());
    if (!v->sized && rest.empty()) return {v, 0};
    if (!v->sized || !rest.starts_with('_')) continue;
    rest.remove_prefix(1);
    int64_t size = 0;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), size);
    if (error == std::errc() && end == rest.data() + rest.size() && size > 0) return {v, size};
  }
  return {};
}

/// A linear subblock is an FFN for servers without linear attention.
bool runs_linear(const Server& server, Subblock subblock) {
  return (subblock == Subblock::attention && server.forms.linear_attention) || server.linear_ffn || server.biased_ffn;
}

class Checker {
 public:
  Checker(const Server& server, const Architecture& architecture, const ModelConfig& config)
      : server_(server), architecture_(architecture), config_(config) {}

  ServerCheck check() {
    const bool plain = architecture_ == teacher_architecture(config_);  // a Llama, which they all run
    result_.plan = plan_forms(architecture_, config_, plain ? ReaderForms{} : server_.forms);
    for (size_t l = 0; l < architecture_.size(); ++l)
      for (const Subblock s : {Subblock::attention, Subblock::ffn})
        if (std::string text = obstacle_of(server_, s, architecture_[l].of(s).name()); !text.empty())
          refuse(static_cast<int64_t>(l), std::move(text));
    note_linear();
    check_kv_heads();
    if (std::ssize(result_.plan.blocks) > server_.layers_at_most)
      refuse(0, fmt::format("{} layers; it reads at most {}", result_.plan.blocks.size(), server_.layers_at_most));
    return std::move(result_);
  }

 private:
  void refuse(int64_t layer, std::string text) { result_.obstacles.push_back({layer, std::move(text)}); }

  void note_linear() {
    if (server_.linear_ffn || !server_.biased_ffn) return;
    for (const FormBlock& block : result_.plan.blocks)
      if (block.ffn.choice.is("linear"))
        result_.plan.changes.push_back({block.ffn.layer, "the linear FFN is a SwiGLU whose gate is 1"});
  }

  // Of its own blocks: idle ones have as many as those.
  void check_kv_heads() {
    if (server_.mixed_kv_heads) return;
    int64_t first = 0;
    for (size_t l = 0; l < architecture_.size(); ++l) {
      const int64_t heads = kv_heads_of(architecture_[l].attention.name());
      if (first == 0) first = heads;
      if (heads > 0 && heads != first)
        refuse(static_cast<int64_t>(l),
               fmt::format("{} KV heads where the layers before have {}; it wants one number", heads, first));
    }
  }

  const Server& server_;
  const Architecture& architecture_;
  const ModelConfig& config_;
  ServerCheck result_;
};

}  // namespace

std::span<const Server> all_servers() { return kServers; }

const Server& server_called(std::string_view name) {
  std::vector<std::string> known;
  for (const Server& server : kServers) {
    if (server.name == name) return server;
    known.emplace_back(server.name);
  }
  throw unknown_name("server", std::string(name), known);
}

std::vector<const Server*> servers_called(std::span<const std::string> names) {
  std::vector<const Server*> servers;
  const auto add = [&](const Server& server) {
    if (std::find(servers.begin(), servers.end(), &server) == servers.end()) servers.push_back(&server);
  };
  for (const std::string& name : names) {
    if (name == "all")
      for (const Server& server : kServers) add(server);
    else
      add(server_called(name));
  }
  return servers;
}

std::string obstacle_of(const Server& server, Subblock subblock, std::string_view name) {
  const Variant* variant = kind_called(subblock, name).variant;
  if (!variant) return fmt::format("{}: no {} that it knows", name, name_of(subblock));
  if (variant->name == "window") return fmt::format("{}: attention over a window", name);
  if (variant->name == "linear" && !runs_linear(server, subblock)) return fmt::format("a linear {}", name_of(subblock));
  return "";
}

int64_t kv_heads_of(std::string_view attention) {
  const NamedKind kind = kind_called(Subblock::attention, attention);
  return kind.variant && kind.variant->name == "gqa" ? kind.size : 0;
}

ServerCheck check_server(const Server& server, const Architecture& architecture, const ModelConfig& config) {
  return Checker(server, architecture, config).check();
}

}  // namespace tangram
