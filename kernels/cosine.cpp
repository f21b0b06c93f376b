#include "kernels/cosine.h"

#include <cmath>

#include "kernels/check.h"

namespace tangram {
namespace {

/// 1 / |x|, 1 / |y| and their product with x . y; all 0 if either vector has no direction.
struct Direction {
  double inverse_x = 0, inverse_y = 0, cosine = 0;
};

template <class X, class Y>
Direction direction_of(const X* x, const Y* y, int64_t H) {
  double xx = 0, yy = 0, xy = 0;
#pragma omp simd reduction(+ : xx, yy, xy)
  for (int64_t h = 0; h < H; ++h) {
    const double a = float(x[h]), b = float(y[h]);
    xx += a * a;
    yy += b * b;
    xy += a * b;
  }
  if (xx < kMinNorm * kMinNorm || yy < kMinNorm * kMinNorm) return {};
  return {1 / std::sqrt(xx), 1 / std::sqrt(yy), xy / std::sqrt(xx * yy)};
}

void check_args(Tensor x, Tensor y) {
  CHECK(x.same_shape(y), "student ({}, {}), teacher ({}, {})", x.rows, x.cols, y.rows, y.cols);
}

/// Calls f<X, Y>() with the types of x and y.
template <class F>
void dispatch_pair(Tensor x, Tensor y, F&& f) {
  dispatch(x.dtype, [&]<class X>() { dispatch(y.dtype, [&]<class Y>() { f.template operator()<X, Y>(); }); });
}

}  // namespace

void cosine_forward(Tensor loss, Tensor x, Tensor y, Context& ctx) {
  check_args(x, y);
  check_tensor("loss", loss, 1, x.rows, DType::f32);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {loss, x, y})) return cuda::cosine_forward(loss, x, y, ctx);
  dispatch_pair(x, y, [&]<class X, class Y>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
    for (int64_t n = 0; n < x.rows; ++n)
      loss.as<float>()[n] = float(1 - direction_of(x.row<X>(n), y.row<Y>(n), x.cols).cosine);
  });
}

void cosine_backward(Tensor dx, Tensor x, Tensor y, float scale, Context& ctx) {
  check_args(x, y);
  check_tensor("dx", dx, x.rows, x.cols, x.dtype);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {dx, x, y})) return cuda::cosine_backward(dx, x, y, scale, ctx);
  dispatch_pair(x, y, [&]<class X, class Y>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
    for (int64_t n = 0; n < x.rows; ++n) {
      const X* xn = x.row<X>(n);
      const Y* yn = y.row<Y>(n);
      X* dxn = dx.row<X>(n);
      const Direction d = direction_of(xn, yn, x.cols);
      const float a = float(scale * d.cosine * d.inverse_x * d.inverse_x), b = float(scale * d.inverse_x * d.inverse_y);
#pragma GCC ivdep
      for (int64_t h = 0; h < x.cols; ++h) dxn[h] = X(float(dxn[h]) + (a * float(xn[h]) - b * float(yn[h])));
    }
  });
}

}  // namespace tangram
