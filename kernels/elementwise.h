#pragma once
#include "kernels/context.h"

namespace tangram {

/// y = a + b
///
///   y, a, b  (N, C)  T     any row strides; y may be a or b
///
/// Throws Error if a shape or dtype disagrees.
void add(Tensor y, Tensor a, Tensor b, Context& ctx);

}  // namespace tangram
