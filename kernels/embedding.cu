#include "kernels/embedding.h"

#include "kernels/cover.cuh"

namespace tangram::cuda {
namespace {

constexpr int kRowsAtOnce = 8;  // loads in flight of a thread that adds up rows

template <class E, int N>
__global__ void forward_kernel(Matrix<E> y, Matrix<E> table, const int32_t* tokens, int64_t rows, int64_t cols) {
  for_each_pack<N>(rows, cols,
                   [&](int64_t n, int64_t c) { y.template at<N>(n, c) = table.template at<N>(tokens[n], c); });
}

// Row g of the grid is the g-th token that occurs: a thread adds up a pack over its positions, in their order.
template <class E, int N>
__global__ void __launch_bounds__(kCoverThreads, 3)
    backward_kernel(Matrix<float> dtable, Matrix<E> dy, Matrix<int32_t> lists, int64_t count, int64_t cols) {
  const int32_t *order = lists.row(0), *starts = lists.row(1), *ids = lists.row(2);
  for_each_pack<N>(count, cols, [&](int64_t g, int64_t c) {
    Pack<float, N> sum = dtable.at<N>(ids[g], c);
    const int last = starts[g + 1];
    int i = starts[g];
    for (; i + kRowsAtOnce <= last; i += kRowsAtOnce) {
      int32_t at[kRowsAtOnce];
      Pack<E, N> rows[kRowsAtOnce];
#pragma unroll
      for (int k = 0; k < kRowsAtOnce; ++k) at[k] = order[i + k];
#pragma unroll
      for (int k = 0; k < kRowsAtOnce; ++k) rows[k] = dy.template at<N>(at[k], c);
#pragma unroll
      for (int k = 0; k < kRowsAtOnce; ++k)
        for (int j = 0; j < N; ++j) sum.v[j] += to_float(rows[k].v[j]);
    }
    for (; i < last; ++i) {
      const Pack<E, N> row = dy.template at<N>(order[i], c);
      for (int j = 0; j < N; ++j) sum.v[j] += to_float(row.v[j]);
    }
    dtable.at<N>(ids[g], c) = sum;
  });
}

}  // namespace

void embedding_forward(Tensor y, Tensor table, const int32_t* tokens, Context& ctx) {
  if (y.size() == 0) return;
  dispatch(y.dtype, [&]<class T>() {
    dispatch_pack<T>({y, table}, [&]<int N>() {
      const Cover c = cover<N>(y.rows, y.cols);
      launch(forward_kernel<Element<T>, N>, c.grid, c.block, ctx, matrix<T>(y), matrix<T>(table), tokens, y.rows,
             y.cols);
    });
  });
}

void embedding_backward(Tensor dtable, Tensor dy, Tensor lists, int64_t count, Context& ctx) {
  if (dy.size() == 0) return;
  dispatch(dy.dtype, [&]<class T>() {
    dispatch_pack<T>({dtable, dy}, [&]<int N>() {
      const Cover c = cover<N>(count, dy.cols);
      launch(backward_kernel<Element<T>, N>, c.grid, c.block, ctx, matrix<float>(dtable), matrix<T>(dy),
             matrix<int32_t>(lists), count, dy.cols);
    });
  });
}

}  // namespace tangram::cuda
