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

/// How a config.json says what the blocks of an irregular model are.
enum class IrregularForm : uint8_t {
  block_configs,    ///< `model_type` "nemotron-nas" (NVIDIA's Llama-Nemotron: configuration_decilm.py, block_config.py)
  per_layer_config  ///< "llama", and by layer what differs from the rest (transformers' integrations/heterogeneity)
};

/// Reads the text of a Hugging Face config.json: `model_type` "nemotron-nas" with `block_configs`, or "llama", plain,
/// with `per_layer_config`, or with the `block_configs` of NVIDIA's Model-Optimizer (AnyModel). An FFN has the width
///
///   I = 2 ffn_mult H / 3, cut to an integer and rounded up to a multiple of 256, or `intermediate_size`
///
/// and the teacher that the sizes of variants refer to comes from the key `teacher` or the sizes of a "llama", or else
/// is the least that has all of them as parts. Throws Error (bad_input) that begins with `name` and the key: of a wrong
/// type, out of range, in contradiction to another, or asking for what is not built (biases, other activations and RoPE
/// scalings).
ModelDescription parse_config_json(std::string_view text, const std::string& name);

/// The same of `folder`/config.json.
ModelDescription read_config(const std::filesystem::path& folder);

/// The width I above of an FFN for hidden size H.
int64_t ffn_mult_width(double ffn_mult, int64_t hidden_size);

/// The config.json that parse_config_json reads back: of a plain LlamaForCausalLM if the architecture is the teacher's,
/// else in the form asked for: of a DeciLMForCausalLM with one entry of `block_configs` a layer, where a variant that
/// the format has no words for stands in the additional key `variant`; or of a LlamaForCausalLM with a
/// `per_layer_config`, which throws Error (bad_input) naming the layers for which it has no words. `dtype` is that of
/// the stored weights.
std::string config_json(const ModelConfig& config, const Architecture& architecture, DType dtype,
                        IrregularForm form = IrregularForm::block_configs);

}  // namespace tangram
