#pragma once
#include <cmath>
#include <limits>

#include "kernels/arena.h"
#include "kernels/random.h"

namespace tangram {

constexpr double kGap = 7;

inline double get(Tensor x, int64_t r, int64_t c) {
  return x.dtype == DType::f32 ? double(x.row<float>(r)[c]) : double(float(x.row<bf16>(r)[c]));
}

inline void set(Tensor x, int64_t r, int64_t c, double value) {
  dispatch(x.dtype, [&]<class T>() { x.row<T>(r)[c] = T(float(value)); });
}

/// Columns of a wider matrix: an unaligned start, and `gap` before and after every row.
inline Tensor strided_tensor(Arena& arena, int64_t rows, int64_t cols, DType dtype, double gap = kGap) {
  const Tensor wide = arena.tensor(rows, cols + 3, dtype);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < wide.cols; ++c) set(wide, r, c, gap);
  return wide.col_range(1, cols);
}

/// The same, filled with normal values; NaN in the gaps spoils the result of whoever reads them.
inline Tensor random_tensor(Arena& arena, int64_t rows, int64_t cols, DType dtype, uint64_t seed) {
  const Tensor x = strided_tensor(arena, rows, cols, dtype, std::numeric_limits<double>::quiet_NaN());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) set(x, r, c, random_normal(seed, uint64_t(r), uint64_t(c)));
  return x;
}

/// A strided_tensor with the values of x.
inline Tensor clone(Arena& arena, Tensor x) {
  const Tensor y = strided_tensor(arena, x.rows, x.cols, x.dtype);
  copy(y, x);
  return y;
}

/// Whether the elements beside every row of a strided_tensor were left alone.
inline bool gaps_intact(Tensor x) {
  for (int64_t r = 0; r < x.rows; ++r)
    for (const int64_t c : {int64_t{-1}, x.cols, x.cols + 1})
      if (get(x, r, c) != kGap) return false;
  return true;
}

inline bool same_bytes(Tensor a, Tensor b) {
  for (int64_t r = 0; r < a.rows; ++r)
    if (std::memcmp(static_cast<char*>(a.data) + r * a.stride * size_of(a.dtype),
                    static_cast<char*>(b.data) + r * b.stride * size_of(b.dtype), size_t(a.cols * size_of(a.dtype))))
      return false;
  return a.same_shape(b) && a.dtype == b.dtype;
}

}  // namespace tangram
