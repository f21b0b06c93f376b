#pragma once
#include "kernels/cuda.cuh"

// Kernels that start before the one before them has ended (programmatic dependent launch, Hopper and newer).

namespace tangram::cuda {

inline bool gpu_starts_early() {
  static const int major = [] {
    int value = 0;
    CUDA_CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, 0));
    return value;
  }();
  return major >= 9;
}

/// Starts a kernel like `launch_shared`, but where weights are at rest as soon as all blocks of the kernel queued
/// before have called `let_next_start` or ended: its first reads hide the other's last ones. Until `wait_for_previous`
/// it may read weights alone, and write nothing.
template <class... P, class... A>
void launch_early(void (*kernel)(P...), dim3 grid, dim3 block, int64_t shared_bytes, const Context& ctx, A&&... args) {
  allow_shared(kernel, shared_bytes);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.stream = ctx.stream;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.attrs = &early, config.numAttrs = ctx.weights_at_rest && gpu_starts_early() ? 1 : 0;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
}

/// Waits until the work queued before this kernel has ended and all that it wrote can be seen. Every thread of a kernel
/// of `launch_early` calls it, so that a kernel that has ended vouches for all before it; elsewhere it does nothing.
__device__ inline void wait_for_previous() {
#ifdef TANGRAM_CUDA_EMULATOR
  emulator::wait_for_previous();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Allows the next kernel, if it is of `launch_early`, to start when all blocks have come here. What that one reads
/// after its own wait is there wherever this is called.
__device__ inline void let_next_start() {
#if !defined(TANGRAM_CUDA_EMULATOR) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace tangram::cuda
