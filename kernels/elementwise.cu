#include "kernels/elementwise.h"

#include "kernels/cover.cuh"

namespace tangram::cuda {
namespace {

template <class D, class S, int N>
__global__ void convert_kernel(Matrix<D> dst, Matrix<S> src, int64_t rows, int64_t cols) {
  for_each_pack<N>(rows, cols, [&](int64_t r, int64_t c) {
    const Pack<S, N> from = src.template at<N>(r, c);
    Pack<D, N> to;
    for (int i = 0; i < N; ++i) to.v[i] = from_float<D>(to_float(from.v[i]));
    dst.template at<N>(r, c) = to;
  });
}

template <class E, int N>
__global__ void add_kernel(Matrix<E> y, Matrix<E> a, Matrix<E> b, int64_t rows, int64_t cols) {
  for_each_pack<N>(rows, cols, [&](int64_t r, int64_t c) {
    Pack<E, N> pa = a.template at<N>(r, c);
    const Pack<E, N> pb = b.template at<N>(r, c);
    for (int i = 0; i < N; ++i) pa.v[i] = from_float<E>(to_float(pa.v[i]) + to_float(pb.v[i]));
    y.template at<N>(r, c) = pa;
  });
}

size_t pitch(const Tensor& t) { return static_cast<size_t>((t.rows > 1 ? t.stride : t.cols) * size_of(t.dtype)); }

}  // namespace

void copy(Tensor dst, Tensor src, Context& ctx) {
  if (dst.size() == 0) return;
  if (dst.dtype == src.dtype) {
    CUDA_CHECK(cudaMemcpy2DAsync(dst.data, pitch(dst), src.data, pitch(src),
                                 static_cast<size_t>(dst.cols * size_of(dst.dtype)), static_cast<size_t>(dst.rows),
                                 cudaMemcpyDeviceToDevice, ctx.stream));
    return;
  }
  dispatch(dst.dtype, [&]<class D>() {
    dispatch(src.dtype, [&]<class S>() {
      dispatch_pack<bf16>({dst, src}, [&]<int N>() {  // one of the two is bf16
        const Cover c = cover<N>(dst.rows, dst.cols);
        launch(convert_kernel<Element<D>, Element<S>, N>, c.grid, c.block, ctx, matrix<D>(dst), matrix<S>(src),
               dst.rows, dst.cols);
      });
    });
  });
}

void fill_zero(Tensor x, Context& ctx) {
  if (x.size() == 0) return;
  CUDA_CHECK(cudaMemset2DAsync(x.data, pitch(x), 0, static_cast<size_t>(x.cols * size_of(x.dtype)),
                               static_cast<size_t>(x.rows), ctx.stream));
}

void add(Tensor y, Tensor a, Tensor b, Context& ctx) {
  if (y.size() == 0) return;
  dispatch(y.dtype, [&]<class T>() {
    dispatch_pack<T>({y, a, b}, [&]<int N>() {
      const Cover c = cover<N>(y.rows, y.cols);
      launch(add_kernel<Element<T>, N>, c.grid, c.block, ctx, matrix<T>(y), matrix<T>(a), matrix<T>(b), y.rows, y.cols);
    });
  });
}

}  // namespace tangram::cuda
