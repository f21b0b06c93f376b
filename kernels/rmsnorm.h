#pragma once
#include "kernels/context.h"

namespace tangram {

/// Root-mean-square normalisation of every row (Zhang & Sennrich 2019, arXiv:1910.07467).
///
///   rstd[n] = (mean_c x[n,c]^2 + eps)^-1/2        y[n,c] = x[n,c] * rstd[n] * w[c]
///
///   x, y  (N, C)  T     any row strides; y may be x
///   w     (1, C)  T
///   rstd  (1, N)  f32   kept for rmsnorm_backward
///   eps                 added to the mean square; 1e-5 in Llama 3
///
/// Sums run in f32 for either T. Throws Error if a shape or dtype disagrees.
void rmsnorm_forward(Tensor y, Tensor rstd, Tensor x, Tensor w, float eps, Context& ctx);

/// rmsnorm_forward of a sum that is wanted, too, in one pass over memory on a GPU: a residual stream after a subblock.
///
///   sum = x + residual, rounded to T        y, rstd = rmsnorm_forward(sum, w, eps)
///
///   sum, residual  (N, C)  T     any row strides; sum may be x or residual
///
/// Throws Error if a shape or dtype disagrees.
void add_rmsnorm_forward(Tensor y, Tensor sum, Tensor rstd, Tensor x, Tensor residual, Tensor w, float eps,
                         Context& ctx);

/// Gradient of rmsnorm_forward, with g[n,c] = dy[n,c] * w[c]:
///
///   dx[n,c]  = rstd[n] * (g[n,c] - x[n,c] * rstd[n]^2 * mean_k(g[n,k] * x[n,k]))     += if `accumulate`
///   dw[c]   += sum_n dy[n,c] * x[n,c] * rstd[n]
///
///   dx, dy  (N, C)  T     dx may be dy if it is not accumulated
///   dw      (1, C)  f32   accumulated; the order of the sum depends only on N and the number of threads
///
/// Pass an empty dx or dw where nobody needs it.
void rmsnorm_backward(Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd, Context& ctx, bool accumulate);

namespace cuda {  // rmsnorm.cu; arguments already checked
/// Without a sum (both empty), or of x + residual.
void rmsnorm_forward(Tensor y, Tensor sum, Tensor rstd, Tensor x, Tensor residual, Tensor w, float eps, Context& ctx);

/// dw is summed up in the rows of `partial` (at most kRmsnormPartials, C) f32 first; dw and partial may be empty.
void rmsnorm_backward(Tensor dx, Tensor dw, Tensor partial, Tensor dy, Tensor x, Tensor w, Tensor rstd, Context& ctx,
                      bool accumulate);
/// Three for each multiprocessor of an H200, all at work at once; fewer where each would have less than four rows.
inline constexpr int64_t kRmsnormPartials = 396, kRmsnormRows = 4;
}  // namespace cuda

}  // namespace tangram
