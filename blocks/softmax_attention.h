#pragma once
#include "blocks/variant.h"

namespace tangram {

/// The parts that all variants with softmax attention share (`gqa_n`, `window_n`): a variant is its AttentionShape.
///
///   q = x w_q^T,  k = x w_k^T,  v = x w_v^T,  rotated;   y = attention(q, k, v) w_o^T
///
/// Parameters: q_proj (heads * D, H), k_proj and v_proj (kv_heads * D, H), all input; o_proj (H, heads * D).
std::vector<ParamSpec> softmax_attention_params(const AttentionShape& shape, const ModelConfig& config);
std::vector<SavedSpec> softmax_attention_saved(const AttentionShape& shape);
Cost softmax_attention_cost(const AttentionShape& shape, const ModelConfig& config);

/// Copies q and o, and averages consecutive groups of the teacher's key and value heads (Ainslie et al. 2023).
void softmax_attention_init(std::span<const Weight> child, std::span<const Weight> teacher, const AttentionShape& shape,
                            const ModelConfig& config, const InitInputs& inputs);

void softmax_attention_forward(Tensor y, Tensor proj, Saved saved, Params params, const AttentionShape& shape,
                               const Sequences& sequences, Context& ctx);
void softmax_attention_backward(Tensor dproj, Grads grads, Tensor dy, Tensor proj, Saved saved, Params params,
                                const AttentionShape& shape, const Sequences& sequences, Context& ctx);
void softmax_attention_infer(Tensor y, const Normed& x, Params params, const AttentionShape& shape,
                             const LayerCache& cache, const Sequences& sequences, Context& ctx);

}  // namespace tangram
