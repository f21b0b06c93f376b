#pragma once
#include <span>
#include <vector>

#include "blocks/architecture.h"
#include "kernels/arena.h"

namespace tangram {

/// The weights of one subblock and of the norm before it.
struct SubblockWeights {
  Choice choice;
  Tensor norm;                 ///< (1, H)  T  empty for a no_op
  std::vector<Weight> params;  ///< as choice.variant->params lists them
};

struct BlockWeights {
  SubblockWeights attention, ffn;

  const SubblockWeights& of(Subblock s) const { return s == Subblock::attention ? attention : ffn; }
  SubblockWeights& of(Subblock s) { return s == Subblock::attention ? attention : ffn; }
};

/// Gradients of one subblock, all f32 and accumulated.
struct SubblockGrads {
  Tensor norm;  ///< (1, H)
  std::vector<Tensor> params;
};

/// What the forward pass of one subblock leaves for its backward pass.
struct SubblockActivations {
  Tensor rstd;  ///< (1, N)  f32
  Tensor x;     ///< (N, H)  T    the normalised input
  Tensor proj;  ///< (N, P)  T
  std::vector<Tensor> saved;
};

/// Uninitialised weights, gradients and activations of a subblock, from an arena (or a planner).
SubblockWeights make_weights(const Choice& choice, const ModelConfig& config, DType dtype, Arena& arena);
SubblockGrads make_grads(const Choice& choice, const ModelConfig& config, Arena& arena);
SubblockActivations make_activations(const Choice& choice, const ModelConfig& config, int64_t tokens, DType dtype,
                                     Arena& arena);

/// The same weights in `memory`, whichever device's that is.
SubblockWeights copy_weights(const SubblockWeights& weights, const ModelConfig& config, Arena& memory, Context& ctx);

/// y = f(norm(residual)), the subblock's output without the addition. y = 0 for a no_op.
///
///   y, residual  (N, H)  T
void subblock_forward(Tensor y, SubblockActivations& saved, Tensor residual, const SubblockWeights& weights,
                      const ModelConfig& config, const Sequences& sequences, Context& ctx);

/// residual += f(norm(residual)) for a subblock over a cache, nothing saved; a no_op does nothing.
void subblock_infer(Tensor residual, const SubblockWeights& weights, const ModelConfig& config, const LayerCache& cache,
                    const Sequences& sequences, Context& ctx);

/// Gradients of subblock_forward. dresidual (N, H) is accumulated (it already holds dy, which also flows past the
/// subblock); pass an empty tensor where nobody needs it. The parameters' gradients are accumulated.
///
///   dy        (N, H)  T    may be dresidual
///   residual  (N, H)  T    the input that forward had
void subblock_backward(Tensor dresidual, SubblockGrads& grads, Tensor dy, Tensor residual,
                       const SubblockActivations& saved, const SubblockWeights& weights, const ModelConfig& config,
                       const Sequences& sequences, Context& ctx);

/// proj (N, P) = x (N, H) times all input parameters. Parameters that lie side by side in memory are one product.
void input_projection(Tensor proj, Tensor x, Params params, std::span<const ParamSpec> specs, Context& ctx);

}  // namespace tangram
