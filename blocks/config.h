#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/rope.h"

namespace tangram {

/// Shape of a Llama teacher; field names as in its config.json. Where a student differs from it layer by layer is the
/// Architecture's business.
struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool tie_word_embeddings = false;
  int32_t bos_token_id = -1;  ///< -1: none
  std::vector<int32_t> eos_token_ids;

  bool operator==(const ModelConfig&) const = default;
};

}  // namespace tangram
