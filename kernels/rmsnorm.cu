#include "kernels/rmsnorm.h"

#include "kernels/cuda.cuh"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 256;  // of a block, which owns a row
constexpr int kRowLanes = 8;   // partial sums of a column of dw in a block

template <class E, int N>
__global__ void forward_kernel(E* y, int64_t stride_y, float* rstd, const E* x, int64_t stride_x, const E* w, int64_t C,
                               float eps) {
  using P = Pack<E, N>;
  __shared__ float shared[kThreads / kWarp];
  const int64_t n = blockIdx.x;
  const auto* xn = reinterpret_cast<const P*>(x + n * stride_x);
  float sum_squares = 0;
  for (int64_t c = threadIdx.x; c < C / N; c += kThreads) {
    const P p = xn[c];
    for (int i = 0; i < N; ++i) sum_squares += to_float(p.v[i]) * to_float(p.v[i]);
  }
  const float r = 1 / sqrtf(block_sum(sum_squares, shared) / float(C) + eps);
  if (threadIdx.x == 0) rstd[n] = r;
  auto* yn = reinterpret_cast<P*>(y + n * stride_y);
  for (int64_t c = threadIdx.x; c < C / N; c += kThreads) {
    P p = xn[c];  // from cache: the row was read just now
    const P weight = reinterpret_cast<const P*>(w)[c];
    for (int i = 0; i < N; ++i) p.v[i] = from_float<E>(to_float(p.v[i]) * r * to_float(weight.v[i]));
    yn[c] = p;
  }
}

template <class E, int N>
__global__ void dx_kernel(E* dx, int64_t stride_dx, const E* dy, int64_t stride_dy, const E* x, int64_t stride_x,
                          const E* w, const float* rstd, int64_t C, bool accumulate) {
  using P = Pack<E, N>;
  __shared__ float shared[kThreads / kWarp];
  const int64_t n = blockIdx.x;
  const auto *xn = reinterpret_cast<const P*>(x + n * stride_x), *dyn = reinterpret_cast<const P*>(dy + n * stride_dy);
  const auto* wp = reinterpret_cast<const P*>(w);
  float dot = 0;
  for (int64_t c = threadIdx.x; c < C / N; c += kThreads) {
    const P px = xn[c], pdy = dyn[c], pw = wp[c];
    for (int i = 0; i < N; ++i) dot += to_float(pdy.v[i]) * to_float(pw.v[i]) * to_float(px.v[i]);
  }
  const float r = rstd[n], k = r * r * block_sum(dot, shared) / float(C);
  auto* dxn = reinterpret_cast<P*>(dx + n * stride_dx);
  for (int64_t c = threadIdx.x; c < C / N; c += kThreads) {
    const P px = xn[c], pdy = dyn[c], pw = wp[c];
    P out = accumulate ? dxn[c] : P{};
    for (int i = 0; i < N; ++i) {
      const float g = r * (to_float(pdy.v[i]) * to_float(pw.v[i]) - to_float(px.v[i]) * k);
      out.v[i] = from_float<E>(accumulate ? to_float(out.v[i]) + g : g);
    }
    dxn[c] = out;
  }
}

// A block owns a warp's width of columns and walks all rows: no atomics, and an order that depends on N alone.
template <class E>
__global__ void dw_kernel(float* dw, const E* dy, int64_t stride_dy, const E* x, int64_t stride_x, const float* rstd,
                          int64_t N, int64_t C) {
  __shared__ float partial[kRowLanes][kWarp];
  const int64_t c = blockIdx.x * int64_t{kWarp} + threadIdx.x;
  float sum = 0;
  if (c < C)
    for (int64_t n = threadIdx.y; n < N; n += kRowLanes)
      sum += to_float(dy[n * stride_dy + c]) * to_float(x[n * stride_x + c]) * rstd[n];
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || c >= C) return;
  for (int i = 1; i < kRowLanes; ++i) sum += partial[i][threadIdx.x];
  dw[c] += sum;
}

}  // namespace

void rmsnorm_forward(Tensor y, Tensor rstd, Tensor x, Tensor w, float eps, Context& ctx) {
  if (x.rows == 0) return;
  dispatch(x.dtype, [&]<class T>() {
    dispatch_pack<T>({y, x, w}, [&]<int N>() {
      launch(forward_kernel<Element<T>, N>, x.rows, kThreads, ctx, data<T>(y), y.stride, data<float>(rstd), data<T>(x),
             x.stride, data<T>(w), x.cols, eps);
    });
  });
}

void rmsnorm_backward(Tensor dx, Tensor dw, Tensor dy, Tensor x, Tensor w, Tensor rstd, Context& ctx, bool accumulate) {
  if (x.rows == 0) return;
  dispatch(x.dtype, [&]<class T>() {
    if (dw.data)  // first: dx may overwrite dy
      launch(dw_kernel<Element<T>>, ceil_div(x.cols, kWarp), dim3(kWarp, kRowLanes), ctx, data<float>(dw), data<T>(dy),
             dy.stride, data<T>(x), x.stride, data<float>(rstd), x.rows, x.cols);
    if (!dx.data) return;
    dispatch_pack<T>({dx, dy, x, w}, [&]<int N>() {
      launch(dx_kernel<Element<T>, N>, x.rows, kThreads, ctx, data<T>(dx), dx.stride, data<T>(dy), dy.stride,
             data<T>(x), x.stride, data<T>(w), data<float>(rstd), x.cols, accumulate);
    });
  });
}

}  // namespace tangram::cuda
