#include "kernels/cuda_devices.h"

namespace tangram {

std::vector<CudaDevice> cuda_devices() {
  if constexpr (kCudaBuilt) return cuda::devices();
  return {};
}

}  // namespace tangram
