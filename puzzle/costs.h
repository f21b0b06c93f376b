#pragma once
#include "blocks/architecture.h"
#include "puzzle/scenario.h"

namespace tangram {

/// Bytes of a subblock's weights, its norm included.
double weight_bytes(const Choice& choice, const ModelConfig& config, DType precision);

/// Bytes of a subblock's KV cache when all sequences of a scenario have all their tokens in it. A window needs no more
/// than its own length.
double kv_cache_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario);

/// Parameters outside the blocks: embedding, final norm, and the head where it is not the embedding.
double outside_parameters(const ModelConfig& config);

/// Tokens that inference works on at a time: one of every sequence in a decode step, whole prompts up to `at_most`
/// tokens in a prefill.
int64_t tokens_at_once(const Scenario& scenario, int64_t at_most);

/// Bytes beside weights and cache: the residual stream and one subblock's buffers (the largest of the teacher's, which
/// every student also has or could have) for tokens_at_once tokens, and the logits of every sequence in f32.
double workspace_bytes(const ModelConfig& config, const Scenario& scenario, int64_t prefill_tokens_at_most);

}  // namespace tangram
