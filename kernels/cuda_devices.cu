#include <cuda_runtime.h>

#include "kernels/cuda_devices.h"

namespace tangram::cuda {

std::vector<CudaDevice> devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};  // no driver, or one older than the toolkit
  std::vector<CudaDevice> all;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    all.push_back(
        {properties.name, 10 * properties.major + properties.minor, static_cast<int64_t>(properties.totalGlobalMem)});
  }
  return all;
}

}  // namespace tangram::cuda
