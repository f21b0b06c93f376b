#pragma once
#include "kernels/context.h"

namespace tangram {

/// Most rows of x for which reading the weight, not arithmetic, sets the time of matvec.
constexpr int64_t kMatvecRows = 4;

/// y = x w^T or y += x w^T for a few tokens, reading w once at the speed of memory: the product of decode.
///
///   x  (N, K)  T     N = 1 to kMatvecRows
///   w  (O, K)  T     T = f32 or bf16
///   y  (N, O)  T or f32
///
/// Sums run in f32 in an order that depends on K alone, so a row of y depends neither on N nor on the threads.
/// Called by `matmul`, which checks the arguments.
void matvec(Tensor y, Tensor x, Tensor w, bool accumulate, Context& ctx);

}  // namespace tangram
