#pragma once
#include <vector>

#include "blocks/architecture.h"
#include "puzzle/scenario.h"

namespace tangram {

/// What one of the devices of a scenario holds of a subblock's matrix.
struct MatrixPart {
  int64_t rows, cols;
  bool input;  ///< multiplies the subblock's normalised input; such matrices are one product
};

/// Matrices are cut along the axis that their variant says, between heads in attention: a device has whole heads, and
/// where there are fewer KV heads than devices, several hold the same one.
std::vector<MatrixPart> device_matrices(const Choice& choice, const ModelConfig& config, int64_t tensor_parallel);
/// Cached elements a token on one device, keys and values together.
int64_t device_kv_elements(const Choice& choice, const ModelConfig& config, int64_t tensor_parallel);

/// Parameters of a subblock, its norm included; of a whole model with its embedding, head and final norm.
double subblock_parameters(const Choice& choice, const ModelConfig& config);
double model_parameters(const Architecture& architecture, const ModelConfig& config);

/// Bytes of a subblock's weights on one device, its norm included, which is as precise as activations are.
double weight_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario);

/// Bytes of a subblock's KV cache on one device when all sequences of a scenario have all their tokens in it; of a
/// window, only the last ones (kept_tokens).
double kv_cache_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario);

/// The same for one token of one sequence, on all devices together, without a head that several hold counted twice.
double kv_bytes_per_token(const Architecture& architecture, const ModelConfig& config, Precision precision);

/// Parameters outside the blocks: embedding, final norm, and the head where it is not the embedding.
double outside_parameters(const ModelConfig& config);
/// Their bytes on one device: cut by vocabulary, and as precise as activations are, since 8 bits spoil logits.
double outside_bytes(const ModelConfig& config, const Scenario& scenario);

/// Tokens that inference works on at a time: one of every sequence in a decode step, whole prompts up to `at_most`
/// tokens in a prefill.
int64_t tokens_at_once(const Scenario& scenario, int64_t at_most);

/// Bytes of one device beside weights and cache while a subblock works: the residual stream and the subblock's buffers
/// for tokens_at_once tokens, and the logits of every sequence in f32. A model takes the most that one of its subblocks
/// does.
double workspace_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                       int64_t prefill_tokens_at_most);
double workspace_bytes(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                       int64_t prefill_tokens_at_most);

}  // namespace tangram
