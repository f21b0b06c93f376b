#include <cuda_runtime.h>
#ifndef TANGRAM_CUDA_EMULATOR  // has memory of its own, with guard pages
#include <cuda.h>

#include "kernels/cuda.cuh"
#include "kernels/device_memory.h"

namespace tangram::cuda {
namespace {

constexpr int64_t kChunk = int64_t{32} << 20;  // a multiple of what the driver maps at once, 2 MiB

Error out_of_memory(int64_t bytes) {
  const auto [free_bytes, total_bytes] = memory_state();
  return Error(fmt::format("the GPU has no {} bytes left: {} of {} are free", bytes, free_bytes, total_bytes));
}

// A function of the driver, which the CUDA runtime has opened; on the link line libcuda.so would be missing wherever
// there is no GPU.
template <class F>
F* driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  CUDA_CHECK(cudaGetDriverEntryPointByVersion(name, &function, CUDART_VERSION, cudaEnableDefault, &found));
  CHECK(found == cudaDriverEntryPointSuccess, "the CUDA driver has no {}", name);
  return reinterpret_cast<F*>(function);
}

#define DRIVER(name) driver_function<decltype(::name)>(#name)
#define DRIVER_CHECK(name, ...)                                                                            \
  do {                                                                                                     \
    const CUresult driver_result = DRIVER(name)(__VA_ARGS__);                                              \
    CHECK(driver_result == CUDA_SUCCESS, "{} ended with CUDA driver error {}", #name, int(driver_result)); \
  } while (false)

CUmemAllocationProp on_this_gpu() {
  int device = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

CUdeviceptr address(void* base, int64_t offset) { return reinterpret_cast<CUdeviceptr>(base) + CUdeviceptr(offset); }

}  // namespace

void* allocate(int64_t bytes) {
  void* p = nullptr;
  if (cudaMalloc(&p, static_cast<size_t>(bytes)) == cudaSuccess) return p;
  cudaGetLastError();  // clears it
  throw out_of_memory(bytes);
}

void release(void* p) noexcept { cudaFree(p); }

MemoryState memory_state() {
  size_t free_bytes = 0, total_bytes = 0;
  CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  return {static_cast<int64_t>(free_bytes), static_cast<int64_t>(total_bytes)};
}

AddressRange::AddressRange(int64_t bytes) : reserved_(round_up(bytes, kChunk)) {
  CUDA_CHECK(cudaFree(nullptr));  // makes the runtime's context, if this is the first call
  CUdeviceptr base = 0;
  DRIVER_CHECK(cuMemAddressReserve, &base, size_t(reserved_), 0, 0, 0);
  base_ = reinterpret_cast<void*>(base);
}

AddressRange::~AddressRange() {
  cudaDeviceSynchronize();  // unlike cudaFree, unmapping waits for nobody
  if (committed_ > 0) DRIVER(cuMemUnmap)(address(base_, 0), size_t(committed_));
  DRIVER(cuMemAddressFree)(address(base_, 0), size_t(reserved_));
}

int64_t AddressRange::commit(int64_t bytes) {
  CHECK(bytes <= reserved_, "{} bytes of a range of {}", bytes, reserved_);
  const int64_t more = round_up(bytes, kChunk) - committed_;
  if (more <= 0) return committed_;
  const CUmemAllocationProp properties = on_this_gpu();
  CUmemGenericAllocationHandle memory = 0;
  const CUresult created = DRIVER(cuMemCreate)(&memory, size_t(more), &properties, 0);
  if (created == CUDA_ERROR_OUT_OF_MEMORY) throw out_of_memory(more);
  CHECK(created == CUDA_SUCCESS, "cuMemCreate of {} bytes ended with CUDA driver error {}", more, int(created));
  const CUresult mapped = DRIVER(cuMemMap)(address(base_, committed_), size_t(more), 0, memory, 0);
  DRIVER_CHECK(cuMemRelease, memory);  // the mapping keeps it
  CHECK(mapped == CUDA_SUCCESS, "cuMemMap of {} bytes ended with CUDA driver error {}", more, int(mapped));
  const CUmemAccessDesc access{properties.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  DRIVER_CHECK(cuMemSetAccess, address(base_, committed_), size_t(more), &access, 1);
  return committed_ += more;
}

}  // namespace tangram::cuda
#endif
