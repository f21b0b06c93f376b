#pragma once
#include <initializer_list>

#include "kernels/context.h"
#include "kernels/cuda_devices.h"

namespace tangram {

/// Throws Error "<name> is (2, 5) f32; must be (2, 6) bf16" unless x is that.
inline void check_tensor(const char* name, Tensor x, int64_t rows, int64_t cols, DType dtype) {
  CHECK(x.rows == rows && x.cols == cols && x.dtype == dtype, "{} is ({}, {}) {}; must be ({}, {}) {}", name, x.rows,
        x.cols, name_of(x.dtype), rows, cols, name_of(dtype));
}

/// Whether an operation on these tensors (empty ones do not count) is the GPU's. Throws Error unless all lie on the
/// context's device.
inline bool on_cuda(const Context& ctx, std::initializer_list<Tensor> tensors) {
  for (const Tensor& t : tensors)
    CHECK(!t.data || t.device == ctx.device, "a tensor of the {} in a context of the {}",
          t.device == Device::cuda ? "GPU" : "CPU", ctx.device == Device::cuda ? "GPU" : "CPU");
  return kCudaBuilt && ctx.device == Device::cuda;
}

}  // namespace tangram
