#pragma once
#include "kernels/cover.cuh"

namespace tangram::cuda {

constexpr int kAddRowsLanes = 32;  // partial sums of a column in a block

static __global__ void __launch_bounds__(kWarp* kAddRowsLanes, 1)
    add_rows_kernel(float* sum, Matrix<float> x, int64_t rows, int64_t cols) {
  __shared__ float partial[kAddRowsLanes][kWarp];
  const int64_t c = blockIdx.x * int64_t{kWarp} + threadIdx.x;
  float s = 0;
  if (c < cols) {
#pragma unroll 8
    for (int64_t n = threadIdx.y; n < rows; n += kAddRowsLanes) s += x.row(n)[c];
  }
  partial[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.y > 0 || c >= cols) return;
  for (int i = 1; i < kAddRowsLanes; ++i) s += partial[i][threadIdx.x];
  sum[c] += s;
}

/// sum (1, C) += the sum of the rows of x (N, C), both f32, in an order that depends on N alone. For few rows, such as
/// the partial sums that the blocks of another kernel leave.
inline void add_rows(Tensor sum, Tensor x, Context& ctx) {
  launch(add_rows_kernel, unsigned(ceil_div(x.cols, kWarp)), dim3(kWarp, kAddRowsLanes), ctx, data<float>(sum),
         matrix<float>(x), x.rows, x.cols);
}

}  // namespace tangram::cuda
