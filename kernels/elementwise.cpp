#include "kernels/elementwise.h"

#include "kernels/check.h"

namespace tangram {

void copy(Tensor dst, Tensor src, Context& ctx) {
  CHECK(dst.same_shape(src), "copy of ({}, {}) to ({}, {})", src.rows, src.cols, dst.rows, dst.cols);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {dst, src})) return cuda::copy(dst, src, ctx);
  copy(dst, src);
}

void fill_zero(Tensor x, Context& ctx) {
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {x})) return cuda::fill_zero(x, ctx);
  fill_zero(x);
}

void add(Tensor y, Tensor a, Tensor b, Context& ctx) {
  check_tensor("a", a, y.rows, y.cols, y.dtype);
  check_tensor("b", b, y.rows, y.cols, y.dtype);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {y, a, b})) return cuda::add(y, a, b, ctx);
  dispatch(y.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (y.rows > 1)
    for (int64_t n = 0; n < y.rows; ++n) {
      const T *an = a.row<T>(n), *bn = b.row<T>(n);
      T* yn = y.row<T>(n);
#pragma GCC ivdep
      for (int64_t c = 0; c < y.cols; ++c) yn[c] = T(float(an[c]) + float(bn[c]));
    }
  });
}

}  // namespace tangram
