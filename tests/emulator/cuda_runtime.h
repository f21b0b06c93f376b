#pragma once
// CUDA C++ on the CPU, for tests on machines without a GPU: enough of the language and of the runtime for our
// kernels; what they write in PTX has a branch for the emulator in kernels/mma.cuh. A kernel's source is compiled as
// ordinary C++ against this header in place of the toolkit's; every thread of a block is a fiber, and blocks run one
// after the other. "Device" memory is the host's, in allocations that end at a page which nobody may touch, so an
// access past the end of one is a crash. So is any access of the host: the memory is there only while something that
// was queued is at work.
//
// Beside results this shows what a GPU may hide: threads that wait at different barriers end in an Error, and fibers
// run in another order in every launch, so a missing barrier shows as a result that changes.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

#define TANGRAM_CUDA_EMULATOR
#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace tangram::emulator {

/// Calls `thread` for every thread of every block, each on a fiber of its own. Of a kernel that a GPU may start early,
/// every thread must wait for the kernel before, else Error; kernels run one after the other all the same.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, bool early, const std::function<void()>& thread);
void wait_for_previous();
/// The dynamic shared memory of the block, filled with NaN when the block starts.
void* dynamic_shared();
/// Waits until all living threads of the block, or of the warp, have come here.
void block_barrier();
void warp_barrier();
/// Does what was asked of a stream: at once, or whenever the graph is launched that this thread is recording. One host
/// thread after the other.
void queue(std::function<void()> work);
bool recording();
/// 8 bytes of every lane of this warp, for exchanges; those of a lane that has returned are NaN.
uint64_t* lane_slots();
int lane();

/// What `value_of(source)` holds after every lane wrote its value.
template <class T>
T exchange(T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  std::memcpy(lane_slots() + lane(), &value, sizeof value);
  warp_barrier();
  T result;
  std::memcpy(&result, lane_slots() + source, sizeof result);
  warp_barrier();  // before anybody writes again
  return result;
}

struct alignas(16) LaneRegisters {
  unsigned char bytes[64];
};
LaneRegisters* lane_registers();
/// Calls f(of_lane), where of_lane(i) is the value that lane i of this warp gave.
template <class T, class F>
void with_all_lanes(const T& value, F&& f) {
  static_assert(sizeof(T) <= sizeof(LaneRegisters));
  std::memcpy(lane_registers() + lane(), &value, sizeof value);
  warp_barrier();
  f([](int source) -> const T& { return *reinterpret_cast<const T*>(lane_registers() + source); });
  warp_barrier();  // before anybody writes again
}

/// A copy that this thread starts (zeros if `from` is null) is done no sooner than the thread waits for its group.
void start_copy(void* to, const void* from, size_t bytes);
void end_copy_group();
void wait_for_copies(int groups_left);

/// The or over the warp of a bit a lane.
unsigned ballot(bool bit);

}  // namespace tangram::emulator

// --- the language ---

inline void __syncthreads() { tangram::emulator::block_barrier(); }
inline void __syncwarp(unsigned = ~0u) { tangram::emulator::warp_barrier(); }
template <class T>
T __shfl_sync(unsigned, T value, int source, int width = warpSize) {
  const int base = tangram::emulator::lane() / width * width;
  return tangram::emulator::exchange(value, base + source % width);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int = warpSize) {
  return tangram::emulator::exchange(value, tangram::emulator::lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta, int width = warpSize) {
  const int lane = tangram::emulator::lane(), source = lane + delta;
  return tangram::emulator::exchange(value, source / width == lane / width ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta, int width = warpSize) {
  const int lane = tangram::emulator::lane(), source = lane - delta;
  return tangram::emulator::exchange(value, lane % width >= delta ? source : lane);
}
inline unsigned __ballot_sync(unsigned, int predicate) { return tangram::emulator::ballot(predicate != 0); }
inline int __any_sync(unsigned, int predicate) { return tangram::emulator::ballot(predicate != 0) != 0; }
inline int __all_sync(unsigned, int predicate) { return tangram::emulator::ballot(predicate == 0) == 0; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __int_as_float(int x) {
  float f;
  std::memcpy(&f, &x, sizeof f);
  return f;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __float_as_int(float f) {
  int x;
  std::memcpy(&x, &f, sizeof x);
  return x;
}
using std::max;
using std::min;

// --- the runtime ---

struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
struct cudaDeviceProp {
  char name[32];
  int major, minor, multiProcessorCount;
  size_t totalGlobalMem;
};
enum cudaLaunchAttributeID { cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaMallocHost(void** p, size_t bytes) {
  return (*p = std::malloc(bytes)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFreeHost(void* p) { return std::free(p), cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes);
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"emulated GPU", 9, 0, 2, size_t{16} << 30};
  return cudaSuccess;
}
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 9, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
struct CUevent_st;
using cudaEvent_t = CUevent_st*;
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return *event = nullptr, cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  return *milliseconds = 1, cudaSuccess;
}
inline cudaError_t cudaStreamCreate(cudaStream_t* stream) { return *stream = nullptr, cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return tangram::emulator::recording() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return tangram::emulator::queue([=] { std::memmove(to, from, bytes); }), cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                     size_t height, cudaMemcpyKind, cudaStream_t) {
  const auto copy = [=] {
    for (size_t r = 0; r < height; ++r)
      std::memmove(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(from) + r * from_pitch, width);
  };
  return tangram::emulator::queue(copy), cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  return tangram::emulator::queue([=] { std::memset(p, value, bytes); }), cudaSuccess;
}
inline cudaError_t cudaMemset2DAsync(void* p, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  const auto fill = [=] {
    for (size_t r = 0; r < height; ++r) std::memset(static_cast<char*>(p) + r * pitch, value, width);
  };
  return tangram::emulator::queue(fill), cudaSuccess;
}
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... args) {
  const auto queue = [&](P... values) {
    tangram::emulator::queue([grid = config->gridDim, block = config->blockDim, shared = config->dynamicSmemBytes,
                              early = config->numAttrs > 0, kernel, values...] {
      tangram::emulator::run_grid(grid, block, shared, early, [&] { kernel(values...); });
    });
  };
  queue(static_cast<P>(args)...);
  return cudaSuccess;
}

struct CUgraph_st;
struct CUgraphExec_st;
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = tangram::emulator::recording() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
