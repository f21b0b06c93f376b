#pragma once
#include <compare>
#include <string>

#include "kernels/tensor.h"

namespace tangram {

/// All that a product's code can depend on but its values: c (M, N) = a' (M, K) b' (K, N) of kernels/matmul.h.
struct MatmulShape {
  int64_t M, N, K;
  int64_t stride_a, stride_b, stride_c;
  bool transpose_a, transpose_b, accumulate;
  DType dtype_ab, dtype_c;
  int64_t alignment;  ///< bytes that divide the address of every row of a, b and c; at most kMaxAlignment
  auto operator<=>(const MatmulShape&) const = default;

  static constexpr int64_t kMaxAlignment = 64;
  double flops() const { return 2.0 * double(M) * double(N) * double(K); }
};

/// "c (16384, 57344) bf16 = a (16384, 8192) b^T (57344, 8192) bf16, strides 57344 8192 8192, aligned to 64".
std::string describe(const MatmulShape& shape);

}  // namespace tangram
