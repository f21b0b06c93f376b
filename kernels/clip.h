#pragma once
#include <span>
#include <vector>

#include "kernels/context.h"

namespace tangram {

/// sqrt of the sum of squares of all elements of `grads` (f32, contiguous; an empty list has norm 0).
///
/// Added up in f64 in an order that depends only on the shapes, not on the number of threads. The result is finite
/// exactly if all elements are: f64 does not overflow on squares of f32. Skip the step if it is not.
double gradient_norm(std::span<const Tensor> grads, Context& ctx);

/// The gradient_norm of every group. On a GPU one launch and one wait for all of them.
std::vector<double> gradient_norms(std::span<const std::vector<Tensor>> groups, Context& ctx);

/// The factor that brings a gradient of norm `norm` down to `max_norm`: min(1, max_norm / norm).
///
/// Throws Error unless max_norm is positive (infinity: no clipping) and norm is finite.
double clip_factor(double norm, double max_norm);

namespace cuda {  // clip.cu
/// A gradient and the first of its blocks of kClipBlock elements; the blocks of all gradients are numbered through.
struct ClipEntry {
  const float* grad;
  int64_t size, first_block;
};
inline constexpr int64_t kClipBlock = 8192;

/// sums (groups) f64: the sums of squares of blocks [group_starts[g], group_starts[g + 1]). `table` holds ClipEntry,
/// group_starts i64, `partial` (blocks) f64; all are on the GPU.
void sums_of_squares(double* sums, Tensor group_starts, Tensor table, double* partial, int64_t blocks, Context& ctx);
}  // namespace cuda

}  // namespace tangram
