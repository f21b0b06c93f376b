#include "kernels/indices.h"

#include "kernels/transfer.h"

namespace tangram {

const int32_t* Indices::on_device(Context& ctx) const {
  if (ctx.device == Device::cpu) return host_.data();
  return copy_.data ? copy_.as<int32_t>() : send(host_, ctx.scratch, ctx).copy_.as<int32_t>();
}

Indices send(std::span<const int32_t> host, Arena& memory, Context& ctx) {
  if (ctx.device == Device::cpu) return host;
  const Tensor copy = memory.tensor(1, std::ssize(host), DType::i32);
  transfer(copy, view_of(host.data(), 1, std::ssize(host)), ctx);
  return {host, copy};
}

}  // namespace tangram
