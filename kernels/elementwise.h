#pragma once
#include "kernels/context.h"

namespace tangram {

/// dst = src, converted to dst's dtype, f32 or bf16; any strides, both on the context's device.
/// Throws Error if the shapes differ.
void copy(Tensor dst, Tensor src, Context& ctx);

/// All elements = 0.
void fill_zero(Tensor x, Context& ctx);

/// y = a + b
///
///   y, a, b  (N, C)  T     any row strides; y may be a or b
///
/// Throws Error if a shape or dtype disagrees.
void add(Tensor y, Tensor a, Tensor b, Context& ctx);

namespace cuda {  // elementwise.cu
void copy(Tensor dst, Tensor src, Context& ctx);
void fill_zero(Tensor x, Context& ctx);
void add(Tensor y, Tensor a, Tensor b, Context& ctx);
}  // namespace cuda

}  // namespace tangram
