#pragma once
#include "kernels/context.h"

namespace tangram {

/// Most rows of x for which reading the weight, not arithmetic, sets the time of matvec: of the CPU and of a GPU.
constexpr int64_t kMatvecRows = 4;
constexpr int64_t kCudaMatvecRows = 8;

constexpr int64_t matvec_rows(Device device) { return device == Device::cuda ? kCudaMatvecRows : kMatvecRows; }

/// y = x w^T or y += x w^T for a few tokens, reading w once at the speed of memory: the product of decode.
///
///   x  (N, K)  T     N = 1 to matvec_rows
///   w  (O, K)  T     T = f32 or bf16
///   y  (N, O)  T or f32
///
/// Sums run in f32 in an order that depends on K alone, so a row of y depends neither on N nor on the threads.
/// Called by `matmul`, which checks the arguments.
void matvec(Tensor y, Tensor x, Tensor w, bool accumulate, Context& ctx);

namespace cuda {  // matvec.cu; arguments already checked

/// What else the kernel does while it reads the weight.
struct MatvecOptions {
  bool accumulate = false;
  Tensor norm = {};  ///< (1, K)  T   rows of x are normalised first (rmsnorm_forward), unless empty
  float eps = 0;     ///< of the norm
  Tensor up = {};    ///< (O, K)  T   y = silu(x w^T) * (x up^T), unless empty
};
void matvec(Tensor y, Tensor x, Tensor w, const MatvecOptions& options, Context& ctx);

}  // namespace cuda

}  // namespace tangram
