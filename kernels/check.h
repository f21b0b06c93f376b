#pragma once
#include "kernels/tensor.h"

namespace tangram {

/// Throws Error "<name> is (2, 5) f32; must be (2, 6) bf16" unless x is that.
inline void check_tensor(const char* name, Tensor x, int64_t rows, int64_t cols, DType dtype) {
  CHECK(x.rows == rows && x.cols == cols && x.dtype == dtype, "{} is ({}, {}) {}; must be ({}, {}) {}", name, x.rows,
        x.cols, name_of(x.dtype), rows, cols, name_of(dtype));
}

}  // namespace tangram
