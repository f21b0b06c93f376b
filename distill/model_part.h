#pragma once
#include "blocks/model.h"

namespace tangram {

/// Where the tensors of blocks [begin, end) stand in named_tensors(model), with the embedding where begin is 0 and the
/// final norm and the head where `end` is the number of blocks.
Slice part_slice(const Model& model, int64_t begin, int64_t end);
/// These tensors.
std::vector<NamedTensor> part_tensors(const Model& model, int64_t begin, int64_t end);

/// `model` with a copy of its own of that part, in `dtype` in the memory of the context's device; the rest stays where
/// it is, and is not to be computed with. A tied head is the embedding's copy if the part has both, else one more.
Model copy_part(const Model& model, int64_t begin, int64_t end, DType dtype, Context& ctx);

/// What the backward pass through consecutive blocks needs.
struct BlockActivations {
  std::vector<Tensor> residual;            ///< input of each subblock, then the output; [0] is the caller's to set
  std::vector<SubblockActivations> saved;  ///< two a block
};
BlockActivations make_activations(std::span<const BlockWeights> blocks, const ModelConfig& config, int64_t tokens,
                                  DType dtype, Arena& arena);
/// From residual[0] (N, H).
void blocks_forward(BlockActivations& activations, std::span<const BlockWeights> blocks, const ModelConfig& config,
                    const Sequences& sequences, Context& ctx);
/// dx (N, H), the gradient of the output, becomes that of residual[0]; the parameters' are accumulated in `grads`, two
/// a block. `hidden_gradient` adds what a loss on the output of one of these blocks gives; or null.
void blocks_backward(Tensor dx, std::span<SubblockGrads> grads, const BlockActivations& activations,
                     std::span<const BlockWeights> blocks, const ModelConfig& config, const Sequences& sequences,
                     const HiddenGradient& hidden_gradient, Context& ctx);

}  // namespace tangram
