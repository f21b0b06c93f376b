#include "kernels/mse.h"

#include <algorithm>

#include "kernels/check.h"

namespace tangram {
namespace {

constexpr int64_t kPieceCols = 4096;  // pieces of a row, so that a single long row is shared by the threads too

/// The sum of f(row, first column, columns) over all pieces of a (rows, cols) matrix, in a fixed order.
template <class F>
double sum_pieces(int64_t rows, int64_t cols, Context& ctx, F&& f) {
  const ArenaScope scope(ctx.scratch);
  const int64_t pieces_per_row = ceil_div(cols, kPieceCols), pieces = rows * pieces_per_row;
  double* partial = ctx.scratch.tensor(pieces, sizeof(double), DType::u8).as<double>();
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t first = i % pieces_per_row * kPieceCols;
    partial[i] = f(i / pieces_per_row, first, std::min(kPieceCols, cols - first));
  }
  double sum = 0;
  for (int64_t i = 0; i < pieces; ++i) sum += partial[i];
  return sum;
}

Tensor gpu_partial(Context& ctx) {
  return ctx.scratch.tensor(1, ctx.device == Device::cuda ? cuda::kMsePartials * int64_t{sizeof(double)} : 0,
                            DType::u8);
}

template <class Y, class T>
double squared_error(const Y* y, const T* target, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const double error = float(y[i]) - float(target[i]);
    sum += error * error;
  }
  return sum;
}

}  // namespace

void sum_squares(Tensor sum, Tensor x, Context& ctx) {
  check_tensor("sum", sum, 1, 1, DType::f32);
  const ArenaScope scope(ctx.scratch);
  const Tensor partial = gpu_partial(ctx);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {sum, x})) return cuda::sum_squares(sum, x, partial, ctx);
  dispatch(x.dtype, [&]<class T>() {
    *sum.as<float>() = float(sum_pieces(x.rows, x.cols, ctx, [&](int64_t n, int64_t first, int64_t count) {
      const T* xn = x.row<T>(n) + first;
      double s = 0;
#pragma omp simd reduction(+ : s)
      for (int64_t i = 0; i < count; ++i) s += double(float(xn[i])) * float(xn[i]);
      return s;
    }));
  });
}

void normalized_mse(Tensor loss, Tensor dy, Tensor y, Tensor target, Tensor target_sum_squares, float scale,
                    Context& ctx) {
  check_tensor("loss", loss, 1, 1, DType::f32);
  check_tensor("target_sum_squares", target_sum_squares, 1, 1, DType::f32);
  CHECK(y.same_shape(target), "y ({}, {}), target ({}, {})", y.rows, y.cols, target.rows, target.cols);
  if (dy.data) check_tensor("dy", dy, y.rows, y.cols, y.dtype);
  const ArenaScope scope(ctx.scratch);
  const Tensor partial = gpu_partial(ctx);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {loss, dy, y, target, target_sum_squares}))
      return cuda::normalized_mse(loss, dy, y, target, target_sum_squares, scale, partial, ctx);
  const float unit = *target_sum_squares.as<float>();
  const double denominator = unit < kMinSumSquares ? 1 : unit;
  const float k = float(2 * scale / denominator);
  dispatch(y.dtype, [&]<class Y>() {
    dispatch(target.dtype, [&]<class T>() {
      const double sum = sum_pieces(y.rows, y.cols, ctx, [&](int64_t n, int64_t first, int64_t count) {
        const Y* yn = y.row<Y>(n) + first;
        const T* tn = target.row<T>(n) + first;
        const double s = squared_error(yn, tn, count);
        if (!dy.data) return s;
        Y* dyn = dy.row<Y>(n) + first;
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) dyn[i] = Y(k * (float(yn[i]) - float(tn[i])));
        return s;
      });
      *loss.as<float>() = float(sum / denominator);
    });
  });
}

}  // namespace tangram
