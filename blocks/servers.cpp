#include "blocks/servers.h"

#include <algorithm>

#include "blocks/gguf_model.h"

namespace tangram {
namespace {

constexpr ReaderForms kVllmForms{.linear_attention = false, .ffn_alone_first = false};
// Both take widths from ffn_mult alone, which counts in steps of 256.
constexpr ReaderForms kSglangForms{.linear_attention = false, .ffn_alone_first = false, .width_multiple = kFfnMultStep};
constexpr ReaderForms kTensorRtForms{.width_multiple = kFfnMultStep};
constexpr ReaderForms kMegatronForms{.linear_attention = false, .ffn_alone_first = false};

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
     .forms = kVllmForms,
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
     .forms = kMegatronForms,
     .mixed_kv_heads = false,
     .remark = "its bridge takes the KV heads of all layers from the first, and has no names for linear subblocks"},
};

class Checker {
 public:
  Checker(const Server& server, const Architecture& architecture, const ModelConfig& config)
      : server_(server), architecture_(architecture), config_(config) {}

  ServerCheck check() {
    if (architecture_ == teacher_architecture(config_)) {  // a plain Llama, which they all run
      result_.plan = plan_forms(architecture_, config_, {});
      return std::move(result_);
    }
    result_.plan = plan_forms(architecture_, config_, server_.forms);
    for (const FormBlock& block : result_.plan.blocks) check_linear(block.ffn);
    check_windows();
    check_kv_heads();
    if (std::ssize(result_.plan.blocks) > server_.layers_at_most)
      refuse(0, fmt::format("{} layers; it reads at most {}", result_.plan.blocks.size(), server_.layers_at_most));
    return std::move(result_);
  }

 private:
  void refuse(int64_t layer, std::string text) { result_.obstacles.push_back({layer, std::move(text)}); }

  void check_linear(const FormSource& ffn) {
    if (!ffn.choice.is("linear") || server_.linear_ffn) return;
    if (server_.biased_ffn)
      result_.plan.changes.push_back({ffn.layer, "the linear FFN is a SwiGLU whose gate is 1"});
    else
      refuse(ffn.layer, fmt::format("a linear {}", name_of(ffn.subblock)));
  }

  void check_windows() {
    for (size_t l = 0; l < architecture_.size(); ++l)
      if (const Choice& a = architecture_[l].attention; a.is("window"))
        refuse(static_cast<int64_t>(l), fmt::format("{}: attention over a window", a.name()));
  }

  void check_kv_heads() {
    if (server_.mixed_kv_heads) return;
    int64_t first = 0;
    for (const FormBlock& block : result_.plan.blocks) {
      const Choice& a = block.attention.choice;
      if (!a.is("gqa")) continue;
      if (first == 0) first = a.size;
      if (a.size != first)
        refuse(block.attention.layer,
               fmt::format("{} KV heads where the layers before have {}; it wants one number", a.size, first));
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

ServerCheck check_server(const Server& server, const Architecture& architecture, const ModelConfig& config) {
  return Checker(server, architecture, config).check();
}

}  // namespace tangram
