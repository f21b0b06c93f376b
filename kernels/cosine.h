#pragma once
#include "kernels/context.h"

namespace tangram {

/// Cosine distance of every token between a student's and a teacher's hidden states.
///
///   loss[n] = 1 - cos[n]     cos[n] = x[n] . y[n] / (|x[n]| |y[n]|)
///
///   loss  (1, N)  f32
///   x     (N, H)  T     the student's; any row stride
///   y     (N, H)  T'    the teacher's, f32 or bf16 like T, but not necessarily the same
///
/// A vector shorter than kMinNorm has no direction: its loss is 1 and its gradient 0. Sums run in f64.
/// Throws Error if a shape or dtype disagrees.
void cosine_forward(Tensor loss, Tensor x, Tensor y, Context& ctx);

/// Gradient of  scale * sum_n loss[n]  to the student, added to what is there:
///
///   dx[n] += scale / |x[n]| * (cos[n] x[n] / |x[n]| - y[n] / |y[n]|)
///
///   dx  (N, H)  T     accumulated
void cosine_backward(Tensor dx, Tensor x, Tensor y, float scale, Context& ctx);

/// A vector shorter than this has no direction.
inline constexpr double kMinNorm = 1e-12;

namespace cuda {  // cosine.cu; arguments already checked
void cosine_forward(Tensor loss, Tensor x, Tensor y, Context& ctx);
void cosine_backward(Tensor dx, Tensor x, Tensor y, float scale, Context& ctx);
}  // namespace cuda

}  // namespace tangram
