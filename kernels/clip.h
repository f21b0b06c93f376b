#pragma once
#include <span>

#include "kernels/context.h"

namespace tangram {

/// sqrt of the sum of squares of all elements of `grads` (f32, contiguous; an empty list has norm 0).
///
/// Added up in f64 in an order that depends only on the shapes, not on the number of threads. The result is finite
/// exactly if all elements are: f64 does not overflow on squares of f32. Skip the step if it is not.
double gradient_norm(std::span<const Tensor> grads, Context& ctx);

/// The factor that brings a gradient of norm `norm` down to `max_norm`: min(1, max_norm / norm).
///
/// Throws Error unless max_norm is positive (infinity: no clipping) and norm is finite.
double clip_factor(double norm, double max_norm);

}  // namespace tangram
