#include "kernels/elementwise.h"

#include "kernels/cuda.cuh"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 4096;  // enough to fill any GPU; a thread goes on to further packs

/// Where the packs of a row-strided matrix are: pack i is elements [offset(i), offset(i) + N).
struct Packs {
  int64_t per_row, total;
};

template <int N>
Packs packs_of(Tensor x) {
  return {x.cols / N, x.rows * (x.cols / N)};
}

dim3 grid_of(Packs packs) { return dim3(unsigned(std::min(ceil_div(packs.total, kThreads), kMaxBlocks))); }

// Calls f(row, first column) for every pack of this thread.
template <int N, class F>
__device__ void for_each_pack(Packs packs, F&& f) {
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < packs.total; i += int64_t{gridDim.x} * kThreads)
    f(i / packs.per_row, i % packs.per_row * N);
}

template <class D, class S>
__global__ void convert_kernel(D* dst, int64_t stride_dst, const S* src, int64_t stride_src, Packs packs) {
  for_each_pack<1>(
      packs, [&](int64_t r, int64_t c) { dst[r * stride_dst + c] = from_float<D>(to_float(src[r * stride_src + c])); });
}

template <class E, int N>
__global__ void add_kernel(E* y, int64_t stride_y, const E* a, int64_t stride_a, const E* b, int64_t stride_b,
                           Packs packs) {
  using P = Pack<E, N>;
  for_each_pack<N>(packs, [&](int64_t r, int64_t c) {
    P pa = *reinterpret_cast<const P*>(a + r * stride_a + c);
    const P pb = *reinterpret_cast<const P*>(b + r * stride_b + c);
    for (int i = 0; i < N; ++i) pa.v[i] = from_float<E>(to_float(pa.v[i]) + to_float(pb.v[i]));
    *reinterpret_cast<P*>(y + r * stride_y + c) = pa;
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
      const Packs packs = packs_of<1>(dst);
      launch(convert_kernel<Element<D>, Element<S>>, grid_of(packs), kThreads, ctx, data<D>(dst), dst.stride,
             data<S>(src), src.stride, packs);
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
      const Packs packs = packs_of<N>(y);
      launch(add_kernel<Element<T>, N>, grid_of(packs), kThreads, ctx, data<T>(y), y.stride, data<T>(a), a.stride,
             data<T>(b), b.stride, packs);
    });
  });
}

}  // namespace tangram::cuda
