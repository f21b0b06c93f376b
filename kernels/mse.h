#pragma once
#include "kernels/context.h"

namespace tangram {

/// sum = sum_nh x[n,h]^2
///
///   sum  (1, 1)  f32
///   x    (N, H)  T    any row stride
///
/// Added up in f64 in an order that depends only on the shape, not on the number of threads.
void sum_squares(Tensor sum, Tensor x, Context& ctx);

/// A target below this gives no unit of error.
inline constexpr float kMinSumSquares = 1e-30f;

/// The loss of blockwise distillation (Puzzle, arXiv:2411.19146, section 3) over a batch, and its gradient:
///
///   loss = |y - target|^2 / |target|^2        dy = scale * 2 (y - target) / |target|^2
///
///   loss                (1, 1)  f32
///   dy, y               (N, H)  T     dy is overwritten; dy may be y; an empty dy is not computed
///   target              (N, H)  T'    f32 or bf16
///   target_sum_squares  (1, 1)  f32   of sum_squares: computed once for all variants that learn the same target
///
/// A target whose sum of squares is below kMinSumSquares gives no unit of error: then |target|^2 is replaced by 1.
/// Summed like sum_squares. Throws Error if a shape or dtype disagrees.
void normalized_mse(Tensor loss, Tensor dy, Tensor y, Tensor target, Tensor target_sum_squares, float scale,
                    Context& ctx);

namespace cuda {  // mse.cu; arguments already checked. `partial` is (1, 8 kMsePartials) u8: f64 sums of the blocks.
void sum_squares(Tensor sum, Tensor x, Tensor partial, Context& ctx);
void normalized_mse(Tensor loss, Tensor dy, Tensor y, Tensor target, Tensor target_sum_squares, float scale,
                    Tensor partial, Context& ctx);
inline constexpr int64_t kMsePartials = 1056;  // what the multiprocessors of an H200 hold at once
}  // namespace cuda

}  // namespace tangram
