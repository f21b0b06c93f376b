#include "kernels/mse.h"

#include "kernels/cover.cuh"

namespace tangram::cuda {
namespace {

constexpr int kWarps = kCoverThreads / kWarp;
constexpr int64_t kMinPacks = 4;  // of a thread

// At most kMsePartials blocks, each with a sum of its own.
template <int N>
Cover cover_of(Tensor x) {
  return cover<N>(x.rows, x.cols, std::clamp(x.size() / N / (kMinPacks * kCoverThreads), int64_t{1}, kMsePartials));
}

template <class E, int N>
__global__ void __launch_bounds__(kCoverThreads)
    squares_kernel(double* partial, Matrix<E> x, int64_t rows, int64_t cols) {
  __shared__ double shared[kWarps];
  double sum = 0;
  for_each_pack<N>(rows, cols, [&](int64_t r, int64_t c) {
    const Pack<E, N> p = x.template at<N>(r, c);
    for (int i = 0; i < N; ++i) sum += double(to_float(p.v[i])) * to_float(p.v[i]);
  });
  sum = block_sum(sum, shared);
  if (thread_number() == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

__device__ double denominator(const float* target_sum_squares) {
  return *target_sum_squares < kMinSumSquares ? 1 : *target_sum_squares;
}

template <class Y, class T, int N>
__global__ void __launch_bounds__(kCoverThreads)
    error_kernel(double* partial, Matrix<Y> dy, Matrix<Y> y, Matrix<T> target, const float* target_sum_squares,
                 float scale, int64_t rows, int64_t cols) {
  __shared__ double shared[kWarps];
  const auto k = float(2 * scale / denominator(target_sum_squares));
  double sum = 0;
  for_each_pack<N>(rows, cols, [&](int64_t r, int64_t c) {
    Pack<Y, N> p = y.template at<N>(r, c);
    const Pack<T, N> t = target.template at<N>(r, c);
    for (int i = 0; i < N; ++i) {
      const float error = to_float(p.v[i]) - to_float(t.v[i]);
      sum += double(error) * error;
      p.v[i] = from_float<Y>(k * error);
    }
    if (dy.data) dy.template at<N>(r, c) = p;
  });
  sum = block_sum(sum, shared);
  if (thread_number() == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

// One block: result = the sum of all partial sums, over the denominator if there is a unit of error.
__global__ void __launch_bounds__(kCoverThreads)
    finish_kernel(float* result, const double* partial, int count, const float* target_sum_squares) {
  __shared__ double shared[kWarps];
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kCoverThreads) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *result = float(target_sum_squares ? sum / denominator(target_sum_squares) : sum);
}

void finish(Tensor result, Tensor partial, const Cover& c, const float* target_sum_squares, Context& ctx) {
  launch(finish_kernel, 1, kCoverThreads, ctx, data<float>(result), partial.as<double>(), int(c.grid.x * c.grid.y),
         target_sum_squares);
}

}  // namespace

void sum_squares(Tensor sum, Tensor x, Tensor partial, Context& ctx) {
  dispatch(x.dtype, [&]<class T>() {
    dispatch_pack<T>({x}, [&]<int N>() {
      const Cover c = cover_of<N>(x);
      launch(squares_kernel<Element<T>, N>, c.grid, c.block, ctx, partial.as<double>(), matrix<T>(x), x.rows, x.cols);
      finish(sum, partial, c, nullptr, ctx);
    });
  });
}

void normalized_mse(Tensor loss, Tensor dy, Tensor y, Tensor target, Tensor target_sum_squares, float scale,
                    Tensor partial, Context& ctx) {
  dispatch(y.dtype, [&]<class Y>() {
    dispatch(target.dtype, [&]<class T>() {
      dispatch_pack<Narrower<Y, T>>({dy.data ? dy : y, y, target}, [&]<int N>() {
        const Cover c = cover_of<N>(y);
        launch(error_kernel<Element<Y>, Element<T>, N>, c.grid, c.block, ctx, partial.as<double>(), matrix<Y>(dy),
               matrix<Y>(y), matrix<T>(target), data<float>(target_sum_squares), scale, y.rows, y.cols);
        finish(loss, partial, c, data<float>(target_sum_squares), ctx);
      });
    });
  });
}

}  // namespace tangram::cuda
