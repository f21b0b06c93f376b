#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <initializer_list>
#include <type_traits>
#include <utility>

#include "kernels/context.h"

// What the CUDA sources share. Kernels see __nv_bfloat16 where tensors hold bf16: the same bits, with the machine's own
// conversions.

/// Throws Error with the call, its place and CUDA's explanation unless it succeeds.
#define CUDA_CHECK(call)                                                                          \
  do {                                                                                            \
    const cudaError_t cuda_error = (call);                                                        \
    CHECK(cuda_error == cudaSuccess, "{} ended with: {}", #call, cudaGetErrorString(cuda_error)); \
  } while (false)

namespace tangram::cuda {

/// Whether what is queued on the stream goes into a graph instead of being done.
inline bool is_recording(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = ~0u;

template <class T>
struct ElementOf {
  using type = T;
};
template <>
struct ElementOf<bf16> {
  using type = __nv_bfloat16;
};
/// The kernel's name for a tensor's element.
template <class T>
using Element = typename ElementOf<T>::type;

template <class T>
Element<T>* data(Tensor x) {
  return static_cast<Element<T>*>(x.data);
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class E>
__device__ E from_float(float x) {
  if constexpr (sizeof(E) == sizeof(float))
    return x;
  else
    return __float2bfloat16_rn(x);
}

/// N neighbouring elements that move in one access, or in two of 16 bytes.
template <class E, int N>
struct alignas(sizeof(E) * N < 16 ? sizeof(E) * N : 16) Pack {
  E v[N];
};

/// Elements of 16 bytes, the widest access, if every tensor is aligned for it, row by row; else 1.
template <class T>
int pack_size(std::initializer_list<Tensor> tensors) {
  constexpr int64_t kBytes = 16;
  for (const Tensor& t : tensors) {
    const int64_t elements = kBytes / size_of(t.dtype);
    if (reinterpret_cast<uintptr_t>(t.data) % kBytes != 0 || t.cols % elements != 0 ||
        (t.rows > 1 && t.stride % elements != 0))
      return 1;
  }
  return static_cast<int>(kBytes / static_cast<int64_t>(sizeof(T)));
}

/// Of two types of elements the one of which more make 16 bytes.
template <class A, class B>
using Narrower = std::conditional_t<(sizeof(A) < sizeof(B)), A, B>;

/// Calls f.operator()<N>() with N = pack_size<T>(tensors).
template <class T, class F>
void dispatch_pack(std::initializer_list<Tensor> tensors, F&& f) {
  constexpr int kWide = 16 / sizeof(T);
  if (pack_size<T>(tensors) == kWide)
    f.template operator()<kWide>();
  else
    f.template operator()<1>();
}

/// The sum over the lanes of a warp, in every lane; a fixed order.
template <class F>
__device__ F warp_sum(F x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
  return x;
}

/// Of a thread in its block, with x running fastest.
__device__ inline int thread_number() { return int(threadIdx.x + blockDim.x * threadIdx.y); }

/// The sum over a block of whole warps, in every thread; a fixed order. `shared` has a number for each warp, and may be
/// used again after the next barrier.
template <class F>
__device__ F block_sum(F x, F* shared) {
  const int warp = thread_number() / kWarp, lane = thread_number() % kWarp, warps = blockDim.x * blockDim.y / kWarp;
  x = warp_sum(x);
  if (lane == 0) shared[warp] = x;
  __syncthreads();
  x = lane < warps ? shared[lane] : 0;
  return warp_sum(x);
}

constexpr int64_t kStaticShared = 48 << 10;  // bytes that a block may have without asking

/// Lets a kernel be started with so much dynamic shared memory.
template <class... P>
void allow_shared(void (*kernel)(P...), int64_t bytes) {
  if (bytes > kStaticShared)
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
}

/// Starts a kernel with dynamic shared memory on the context's stream; Error names a launch that is refused.
template <class... P, class... A>
void launch_shared(void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared_bytes, const Context& ctx, A&&... args) {
  allow_shared(kernel, shared_bytes);
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.stream = ctx.stream;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
}

/// Time on the GPU between its making and `stop`, which waits.
class Timer {
 public:
  explicit Timer(const Context& ctx) : stream_(ctx.stream) {
    CUDA_CHECK(cudaEventCreate(&start_));
    CUDA_CHECK(cudaEventCreate(&stop_));
    CUDA_CHECK(cudaEventRecord(start_, stream_));
  }
  ~Timer() {
    if (start_) cudaEventDestroy(start_);
    if (stop_) cudaEventDestroy(stop_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  /// Milliseconds.
  float stop() {
    float milliseconds = 0;
    CUDA_CHECK(cudaEventRecord(stop_, stream_));
    CUDA_CHECK(cudaEventSynchronize(stop_));
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start_, stop_));
    return milliseconds;
  }

 private:
  Stream stream_;
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

/// The dynamic shared memory of the block, aligned to 16 bytes.
template <class T>
__device__ T* dynamic_shared() {
#ifdef TANGRAM_CUDA_EMULATOR
  return static_cast<T*>(emulator::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#endif
}

/// Starts a kernel on the context's stream; Error names a launch that is refused.
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, const Context& ctx, A&&... args) {
  launch_shared(kernel, grid, block, 0, ctx, std::forward<A>(args)...);
}

}  // namespace tangram::cuda
