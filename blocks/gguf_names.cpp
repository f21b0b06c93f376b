#include "blocks/gguf_names.h"

namespace tangram {

static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
    {"q_proj.weight", "attn_q"},      {"k_proj.weight", "attn_k"},           {"v_proj.weight", "attn_v"},
    {"o_proj.weight", "attn_output"}, {"linear_attn.weight", "attn_output"}, {"gate_proj.weight", "ffn_gate"},
    {"up_proj.weight", "ffn_up"},     {"down_proj.weight", "ffn_down"},      {"linear_mlp.weight", "ffn_up"},
};

std::string gguf_name(int64_t layer, std::string_view parameter) {
  for (const auto& [checkpoint, gguf] : kNames)
    if (checkpoint == parameter) return fmt::format("blk.{}.{}.weight", layer, gguf);
  throw Error(fmt::format("the parameter {} has no name in GGUF", parameter));
}

std::string gguf_norm_name(int64_t layer, Subblock subblock) {
  return fmt::format("blk.{}.{}_norm.weight", layer, subblock == Subblock::attention ? "attn" : "ffn");
}

bool is_rotated(std::string_view parameter) { return parameter == "q_proj.weight" || parameter == "k_proj.weight"; }

int64_t checkpoint_row(int64_t r, int64_t head_dim) {
  const int64_t head = r / head_dim, channel = r % head_dim;
  return head * head_dim + channel % 2 * (head_dim / 2) + channel / 2;
}

std::vector<float> rope_factors(const ModelConfig& config) {
  const std::vector<double> plain = rope_frequencies(config.head_dim, config.rope_theta, std::nullopt);
  const std::vector<double> scaled = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling);
  std::vector<float> factors;
  for (size_t i = 0; i < plain.size(); ++i) factors.push_back(static_cast<float>(plain[i] / scaled[i]));
  return factors;
}

}  // namespace tangram
