#pragma once
#include <span>

#include "kernels/context.h"
#include "kernels/weight.h"

namespace tangram {

/// Rows and the norm that they pass first: rmsnorm_forward of x (N, K) with the weight norm (1, K).
struct Normed {
  Tensor x, norm;
  float eps;
};

/// y = rmsnorm(x) [w_0; w_1; …]^T, the product with which a subblock begins.
///
///   y    (N, O_0 + O_1 + …)  T     any row strides
///   w_i  (O_i, K)  T               those that follow each other in memory are one product
///
/// A composition of rmsnorm_forward and matmul_forward, but for up to kCudaMatvecRows rows on a GPU: there it is one
/// kernel a product, which in bf16 rounds x * norm instead of x * norm / rms. Throws Error if a shape or dtype
/// disagrees.
void norm_matmul(Tensor y, const Normed& x, std::span<const Weight> w, Context& ctx);

/// h = silu(n gate^T) * (n up^T) with n = rmsnorm(x): the first half of Llama's FFN.
///
///   h         (N, I)  T     any row stride
///   gate, up  (I, K)  T
///
/// A composition of norm_matmul and swiglu_forward; where that is one kernel, so is this, and the products are not
/// rounded to T on their way.
void norm_matmul_swiglu(Tensor h, const Normed& x, const Weight& gate, const Weight& up, Context& ctx);

}  // namespace tangram
