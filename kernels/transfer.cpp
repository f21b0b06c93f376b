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

HostView::HostView(Tensor x, Context& ctx) : tensor_(x) {
  if (x.device == Device::cpu && !ctx.planning()) return;
  copy_.resize(static_cast<size_t>(x.bytes()));
  tensor_ = {copy_.data(), x.rows, x.cols, x.cols, x.dtype, Device::cpu};
  transfer(tensor_, x, ctx);
}

void synchronize(Context& ctx) {
  if constexpr (kCudaBuilt)
    if (ctx.device == Device::cuda && !ctx.planning()) cuda::synchronize(ctx.stream);
}

}  // namespace tangram
