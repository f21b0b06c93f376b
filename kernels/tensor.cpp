#include "kernels/tensor.h"

namespace tangram {
namespace {

template <class D, class S>
void convert_rows(Tensor dst, Tensor src, float (*to_float)(S)) {
#pragma omp parallel for if (dst.size() > 1 << 16)
  for (int64_t r = 0; r < dst.rows; ++r) {
    D* d = dst.row<D>(r);
    const S* s = src.row<S>(r);
    for (int64_t c = 0; c < dst.cols; ++c) d[c] = D(to_float(s[c]));
  }
}

template <class D>
void convert_from(Tensor dst, Tensor src) {
  switch (src.dtype) {
    case DType::f32:
      return convert_rows<D, float>(
          dst, src, +[](float v) { return v; });
    case DType::bf16:
      return convert_rows<D, bf16>(
          dst, src, +[](bf16 v) { return float(v); });
    case DType::f16:
      return convert_rows<D, uint16_t>(dst, src, f16_to_f32);
    default:
      throw Error(fmt::format("cannot convert {} to {}", name_of(src.dtype), name_of(dst.dtype)));
  }
}

}  // namespace

void copy(Tensor dst, Tensor src) {
  CHECK(dst.same_shape(src), "copy of ({}, {}) to ({}, {})", src.rows, src.cols, dst.rows, dst.cols);
  if (dst.dtype == src.dtype) {
    for (int64_t r = 0; r < dst.rows; ++r)
      std::memcpy(static_cast<char*>(dst.data) + r * dst.stride * size_of(dst.dtype),
                  static_cast<const char*>(src.data) + r * src.stride * size_of(src.dtype),
                  static_cast<size_t>(dst.cols * size_of(dst.dtype)));
    return;
  }
  dispatch(dst.dtype, [&]<class D>() { convert_from<D>(dst, src); });
}

void fill_zero(Tensor x) {
  for (int64_t r = 0; r < x.rows; ++r)
    std::memset(static_cast<char*>(x.data) + r * x.stride * size_of(x.dtype), 0,
                static_cast<size_t>(x.cols * size_of(x.dtype)));
}

}  // namespace tangram
