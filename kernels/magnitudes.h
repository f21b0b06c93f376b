#pragma once
#include "kernels/context.h"

namespace tangram {

/// What each channel contributes:  sum[c] += sum_n |x[n,c]|
///
///   sum  (1, C)  f32   accumulated; the order of the sum depends only on N
///   x    (N, C)  T     any row stride
///
/// Throws Error if a shape or dtype disagrees.
void add_column_magnitudes(Tensor sum, Tensor x, Context& ctx);

namespace cuda {  // magnitudes.cu; arguments already checked
/// Summed up in the rows of `partial` (at most kMagnitudePartials, C) f32 first.
void add_column_magnitudes(Tensor sum, Tensor x, Tensor partial, Context& ctx);
inline constexpr int64_t kMagnitudePartials = 128;
}  // namespace cuda

}  // namespace tangram
