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
};

/// What all tensors of one step share.
struct AdamWStep {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  int64_t step = 1;         ///< the first step is 1
  double grad_scale = 1;    ///< multiplies every gradient: clipping, or the mean over micro-batches
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

}  // namespace tangram
