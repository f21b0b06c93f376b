#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace tangram {

/// A GPU that this process can see.
struct CudaDevice {
  std::string name;        ///< "NVIDIA H200"
  int compute_capability;  ///< 90 for sm_90
  int64_t memory_bytes;
};

/// Whether the CUDA sources are in this binary.
inline constexpr bool kCudaBuilt = TANGRAM_HAS_CUDA;

/// The GPUs of this machine; none where there is no driver, or CUDA was not compiled in.
std::vector<CudaDevice> cuda_devices();

namespace cuda {  // cuda_devices.cu
std::vector<CudaDevice> devices();
}

}  // namespace tangram
