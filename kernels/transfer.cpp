#include "kernels/transfer.h"

#include "kernels/cuda_devices.h"

namespace tangram {

void transfer(Tensor dst, Tensor src, Context& ctx) {
  CHECK(dst.same_shape(src) && dst.dtype == src.dtype, "transfer of ({}, {}) {} to ({}, {}) {}", src.rows, src.cols,
        name_of(src.dtype), dst.rows, dst.cols, name_of(dst.dtype));
  if (ctx.planning() || dst.size() == 0) return;
  if constexpr (kCudaBuilt)
    if (dst.device == Device::cuda || src.device == Device::cuda) return cuda::transfer(dst, src, ctx);
  copy(dst, src);
}

void synchronize(Context& ctx) {
  if constexpr (kCudaBuilt)
    if (ctx.device == Device::cuda && !ctx.planning()) cuda::synchronize(ctx.stream);
}

}  // namespace tangram
