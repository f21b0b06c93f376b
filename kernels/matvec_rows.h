#pragma once
#include "kernels/tensor.h"

namespace tangram {

/// sums[r * N + n] = w[first + r] . x[n] for the rows of w and the N of x that the function was made for.
using DotRows = void(float* sums, const Tensor& w, int64_t first, const Tensor& x);

/// How the rows of a weight meet N of x: `rows` at a time, and one alone where fewer are left. Either sums in the same
/// order.
struct RowKernel {
  static constexpr int kMaxSums = 16;  ///< rows * N
  int rows;
  DotRows *block, *one;
};

/// For x of `tokens` rows in bf16, as w; only where has_bf16_products().
RowKernel row_kernel_bf16(int64_t tokens);

}  // namespace tangram
