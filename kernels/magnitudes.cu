#include "kernels/magnitudes.h"

#include "kernels/add_rows.cuh"

namespace tangram::cuda {
namespace {

constexpr int kRowsAtOnce = 4;  // loads in flight of a thread

// A thread owns a pack of columns and takes every gridDim.y-th row.
template <class E, int N>
__global__ void __launch_bounds__(kCoverThreads, 4)
    partial_kernel(Matrix<float> partial, Matrix<E> x, int64_t rows, int64_t cols) {
  const int64_t c = (blockIdx.x * int64_t{kCoverThreads} + threadIdx.x) * N, step = gridDim.y;
  if (c >= cols) return;
  Pack<float, N> sum = {};
  const auto add = [&](const Pack<E, N>& p) {
    for (int j = 0; j < N; ++j) sum.v[j] += fabsf(to_float(p.v[j]));
  };
  int64_t n = blockIdx.y;
  for (; n + (kRowsAtOnce - 1) * step < rows; n += kRowsAtOnce * step) {
    Pack<E, N> p[kRowsAtOnce];
#pragma unroll
    for (int k = 0; k < kRowsAtOnce; ++k) p[k] = x.template at<N>(n + k * step, c);
#pragma unroll
    for (int k = 0; k < kRowsAtOnce; ++k) add(p[k]);
  }
  for (; n < rows; n += step) add(x.template at<N>(n, c));
  partial.template at<N>(blockIdx.y, c) = sum;
}

}  // namespace

void add_column_magnitudes(Tensor sum, Tensor x, Tensor partial, Context& ctx) {
  if (x.size() == 0) return;
  dispatch(x.dtype, [&]<class T>() {
    dispatch_pack<T>({x, partial}, [&]<int N>() {
      const dim3 grid(unsigned(ceil_div(x.cols / N, kCoverThreads)), unsigned(partial.rows));
      launch(partial_kernel<Element<T>, N>, grid, kCoverThreads, ctx, matrix<float>(partial), matrix<T>(x), x.rows,
             x.cols);
    });
  });
  add_rows(sum, partial, ctx);
}

}  // namespace tangram::cuda
