#pragma once
#include <cstring>

#include "kernels/dtype.h"

namespace tangram {

enum class Device : uint8_t { cpu, cuda };

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// A view of a matrix (rows, cols) whose rows are contiguous and `stride` elements apart. A vector of length C is
/// (1, C). A view is a value and owns nothing; memory belongs to an Arena or a MappedFile.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t stride = 0;  ///< elements from one row to the next; at least cols
  DType dtype = DType::f32;
  Device device = Device::cpu;

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  template <class T>
  T* row(int64_t r) const {
    return static_cast<T*>(data) + r * stride;
  }

  int64_t size() const { return rows * cols; }                    ///< elements
  int64_t bytes() const { return rows * cols * size_of(dtype); }  ///< without the gaps between rows
  bool contiguous() const { return stride == cols || rows <= 1; }
  bool same_shape(const Tensor& other) const { return rows == other.rows && cols == other.cols; }

  /// Rows [first, first + count) and columns [first, first + count) of this view.
  Tensor row_range(int64_t first, int64_t count) const {
    CHECK(first >= 0 && count >= 0 && first + count <= rows, "rows {}+{} of {}", first, count, rows);
    return offset(first * stride, count, cols);
  }
  Tensor col_range(int64_t first, int64_t count) const {
    CHECK(first >= 0 && count >= 0 && first + count <= cols, "columns {}+{} of {}", first, count, cols);
    return offset(first, rows, count);
  }
  /// The same elements under another shape; only of a contiguous view.
  Tensor reshape(int64_t new_rows, int64_t new_cols) const {
    CHECK(contiguous() && new_rows * new_cols == size(), "({}, {}) as ({}, {})", rows, cols, new_rows, new_cols);
    return {data, new_rows, new_cols, new_cols, dtype, device};
  }

 private:
  Tensor offset(int64_t elements, int64_t new_rows, int64_t new_cols) const {
    void* p = data ? static_cast<char*>(data) + elements * size_of(dtype) : nullptr;
    return {p, new_rows, new_cols, stride, dtype, device};
  }
};

/// A view of memory that lives elsewhere, such as a std::vector.
template <class T>
Tensor view_of(T* data, int64_t rows, int64_t cols) {
  return {const_cast<std::remove_const_t<T>*>(data), rows, cols, cols, dtype_of<std::remove_const_t<T>>(), Device::cpu};
}

/// dst = src, converted to dst's dtype; any strides. f16 source is accepted. Throws if the shapes differ.
void copy(Tensor dst, Tensor src);

/// All elements = 0.
void fill_zero(Tensor x);

}  // namespace tangram
