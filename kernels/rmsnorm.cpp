#include "kernels/rmsnorm.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "kernels/elementwise.h"

namespace tangram {
namespace {

void check_inputs(Tensor x, Tensor w, Tensor rstd) {
  check_tensor("w", w, 1, x.cols, x.dtype);
  check_tensor("rstd", rstd, 1, x.rows, DType::f32);
}

template <class T>
void forward_row(T* y, float* rstd, const T* x, const T* w, int64_t C, float eps) {
  float sum_squares = 0;
#pragma omp simd reduction(+ : sum_squares)
  for (int64_t c = 0; c < C; ++c) sum_squares += float(x[c]) * float(x[c]);
  const float r = *rstd = 1 / std::sqrt(sum_squares / float(C) + eps);
#pragma GCC ivdep
  for (int64_t c = 0; c < C; ++c) y[c] = T(float(x[c]) * r * float(w[c]));
}

template <class T>
void backward_row(T* dx, float* dw, const T* dy, const T* x, const T* w, float r, int64_t C, bool accumulate) {
  if (dw) {  // first: dx may overwrite dy
#pragma GCC ivdep
    for (int64_t c = 0; c < C; ++c) dw[c] += float(dy[c]) * float(x[c]) * r;
  }
  if (!dx) return;
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < C; ++c) dot += float(dy[c]) * float(w[c]) * float(x[c]);
  const float k = r * r * dot / float(C);
  if (accumulate) {
#pragma GCC ivdep
    for (int64_t c = 0; c < C; ++c) dx[c] = T(float(dx[c]) + r * (float(dy[c]) * float(w[c]) - float(x[c]) * k));
  } else {
#pragma GCC ivdep
    for (int64_t c = 0; c < C; ++c) dx[c] = T(r * (float(dy[c]) * float(w[c]) - float(x[c]) * k));
  }
}

}  // namespace

void rmsnorm_forward(Tensor y, Tensor rstd, Tensor x, Tensor w, float eps, Context& ctx) {
  check_inputs(x, w, rstd);
  check_tensor("y", y, x.rows, x.cols, x.dtype);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {y, rstd, x, w})) return cuda::rmsnorm_forward(y, {}, rstd, x, {}, w, eps, ctx);
  dispatch(x.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (x.rows > 1)
    for (int64_t n = 0; n < x.rows; ++n)
      forward_row(y.row<T>(n), rstd.as<float>() + n, x.row<T>(n), w.as<T>(), x.cols, eps);
  });
}

void add_rmsnorm_forward(Tensor y, Tensor sum, Tensor rstd, Tensor x, Tensor residual, Tensor w, float eps,
                         Context& ctx) {
  check_inputs(x, w, rstd);
  for (const auto& [name, t] : {std::pair{"y", y}, {"sum", sum}, {"residual", residual}})
    check_tensor(name, t, x.rows, x.cols, x.dtype);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {y, sum, rstd, x, residual, w}))
      return cuda::rmsnorm_forward(y, sum, rstd, x, residual, w, eps, ctx);
  add(sum, x, residual, ctx);
  rmsnorm_forward(y, rstd, sum, w, eps, ctx);
}

void rmsnorm_backward(Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd, Context& ctx, bool accumulate) {
  check_inputs(x, w, rstd);
  check_tensor("dy", dy, x.rows, x.cols, x.dtype);
  if (dx.data) check_tensor("dx", dx, x.rows, x.cols, x.dtype);
  if (dw.data) check_tensor("dw", dw, 1, x.cols, DType::f32);
  ArenaScope scope(ctx.scratch);
  // A row of sums for each thread, or for each block of the GPU.
  const int64_t sums =
      ctx.device == Device::cuda ? std::min(ceil_div(x.rows, cuda::kRmsnormRows), cuda::kRmsnormPartials) : ctx.threads;
  const Tensor partial = ctx.scratch.tensor(sums, dw.data ? x.cols : 0, DType::f32);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {dx, dw, dy, x, w, rstd}))
      return cuda::rmsnorm_backward(dx, dw, partial, dy, x, w, rstd, ctx, accumulate);
  fill_zero(partial);
  dispatch(x.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (x.rows > 1)
    for (int64_t n = 0; n < x.rows; ++n)
      backward_row(dx.data ? dx.row<T>(n) : nullptr, dw.data ? partial.row<float>(omp_get_thread_num()) : nullptr,
                   dy.row<T>(n), x.row<T>(n), w.as<T>(), rstd.as<float>()[n], x.cols, accumulate);
  });
  for (int64_t t = 0; t < partial.rows; ++t)
    for (int64_t c = 0; c < partial.cols; ++c) dw.as<float>()[c] += partial.row<float>(t)[c];
}

}  // namespace tangram
