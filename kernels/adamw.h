#pragma once
#include <span>

#include "kernels/context.h"

namespace tangram {

/// One tensor that AdamW updates: contiguous, all of one shape.
struct AdamWTensor {
  Tensor master;            ///< f32      the weight
  Tensor moment1, moment2;  ///< f32      zero before the first step
  Tensor grad;              ///< f32
  Tensor copy;              ///< f32, bf16   what computes; empty where the master itself does
  double weight_decay = 0;
  double learning_rate_factor = 1;  ///< times the step's learning rate
  double grad_scale = 1;            ///< times the step's: what is clipped apart can be updated together
};

/// What all tensors of one step share.
struct AdamWStep {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  int64_t step = 1;         ///< the first step is 1
  double grad_scale = 1;    ///< multiplies every gradient, with the tensor's: clipping, or the mean over micro-batches
  bool zero_grads = false;  ///< leaves zeros in `grad`
};

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, with the decay multiplied by the learning rate as
/// PyTorch does), on many tensors in one pass over memory:
///
///   g = grad_scale * grad     m = beta1 m + (1 - beta1) g     v = beta2 v + (1 - beta2) g^2     lr = rate * factor
///   w = w - lr * (weight_decay * w + m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + epsilon))     copy = w
///
/// The result does not depend on the number of threads. A gradient that is not finite, or whose square is not in f32,
/// spoils the weights: look at gradient_norm first. Throws Error if a shape or dtype disagrees or an option is out of
/// range.
void adamw(std::span<const AdamWTensor> tensors, const AdamWStep& step, Context& ctx);

/// What one step does to one tensor.
struct AdamWCoefficients {
  float grad_scale, beta1, beta2;
  float rest1, rest2;  ///< 1 - beta, which f32 would get from beta with few digits
  float decay;         ///< lr * weight_decay
  float step_size;     ///< lr / (1 - beta1^step)
  float root_scale;    ///< (1 - beta2^step)^-1/2
  float epsilon;
};

namespace cuda {  // adamw.cu
/// A tensor and the first of its blocks of kAdamWBlock elements; the blocks of all tensors are numbered through.
struct AdamWEntry {
  float *master, *moment1, *moment2, *grad;
  void* copy;
  DType copy_dtype;
  int64_t size, first_block;
  AdamWCoefficients k;
};
inline constexpr int64_t kAdamWBlock = 8192;

/// `table` holds AdamWEntry, on the GPU.
void adamw(Tensor table, int64_t blocks, bool zero_grads, Context& ctx);
}  // namespace cuda

}  // namespace tangram
