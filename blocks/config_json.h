#pragma once
#include <filesystem>
#include <string>
#include <string_view>

#include "blocks/architecture.h"

namespace tangram {

/// What a config.json says of a model.
struct ModelDescription {
  ModelConfig config;
  Architecture architecture;

  bool operator==(const ModelDescription&) const = default;
};

/// Reads the text of a Hugging Face config.json: `model_type` "llama", or "nemotron-nas" with `block_configs` (NVIDIA's
/// Llama-Nemotron: configuration_decilm.py, block_config.py). An FFN there has the width
///
///   I = 2 ffn_mult H / 3, cut to an integer and rounded up to a multiple of 256, or `intermediate_size`
///
/// and the teacher that the sizes of variants refer to comes from the key `teacher`, or else is the least that has all
/// of them as parts. Throws Error (bad_input) that begins with `name` and the key: of a wrong type, out of range, in
/// contradiction to another, or asking for what is not built (biases, other activations and RoPE scalings).
ModelDescription parse_config_json(std::string_view text, const std::string& name);

/// The same of `folder`/config.json.
ModelDescription read_config(const std::filesystem::path& folder);

/// The config.json that parse_config_json reads back: of a plain LlamaForCausalLM if the architecture is the teacher's,
/// else of a DeciLMForCausalLM with one entry of `block_configs` a layer. A variant that the format has no words for
/// stands in the additional key `variant`. `dtype` is that of the stored weights.
std::string config_json(const ModelConfig& config, const Architecture& architecture, DType dtype);

}  // namespace tangram
