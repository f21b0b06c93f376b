#pragma once
#include "kernels/context.h"
#include "kernels/weight.h"

namespace tangram {

enum class Transpose : bool { no, yes };

/// c (M, N) = a' b', or c += a' b' if `accumulate`, where a' (M, K) and b' (K, N) are a and b or their transposes.
///
/// a and b are both f32 or both bf16; c is of the same dtype or f32. Sums run in f32. Any row strides. The algorithm
/// depends only on shapes, strides, dtypes and ctx.threads, so equal calls give equal bits. Other shapes give other
/// bits: a row of c may change with M (up to matvec_rows rows times a transposed b take the kernel of matvec.h), and
/// with the threads, among which a long K is split. Throws Error if shapes disagree.
void matmul(Tensor c, Tensor a, Transpose transpose_a, Tensor b, Transpose transpose_b, bool accumulate, Context& ctx);

/// The three products of a linear layer y = x w^T with
///   x, dx  (N, K)  T     y, dy  (N, O)  T, or f32 for y     w  (O, K)  T     dw  (O, K)  f32
///
///   forward          y  = x w^T
///   backward_input   dx = dy w      overwritten
///   backward_weight  dw += dy^T x   accumulated
///
/// With `accumulate` (`= true`) the result is added to y or dx; with `accumulate = false` dw is overwritten.
/// An empty dw is not computed: the weight is frozen.
void matmul_forward(Tensor y, Tensor x, const Weight& w, Context& ctx, bool accumulate = false);
void matmul_backward_input(Tensor dx, Tensor dy, const Weight& w, Context& ctx, bool accumulate = false);
void matmul_backward_weight(Tensor dw, Tensor dy, Tensor x, Context& ctx, bool accumulate = true);

}  // namespace tangram
