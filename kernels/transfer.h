#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "kernels/context.h"

namespace tangram {

/// dst = src between any two devices, of one dtype; any strides. Into host memory the call waits until the values are
/// there; from host memory, src may change as soon as it returns. Otherwise it may return before the work is done: also
/// for contiguous host memory, which goes through a pinned buffer of the context.
/// Throws Error if shapes or dtypes differ, or if a Graph is being recorded that one side of it is the host's.
void transfer(Tensor dst, Tensor src, Context& ctx);

/// A copy of `host` in `memory`, as bytes in one row.
template <class E>
Tensor send_bytes(std::span<const E> host, Arena& memory, Context& ctx) {
  const auto bytes = static_cast<int64_t>(host.size_bytes());
  const Tensor copy = memory.tensor(1, bytes, DType::u8);
  transfer(copy, view_of(reinterpret_cast<const uint8_t*>(host.data()), 1, bytes), ctx);
  return copy;
}

/// What a tensor holds, where the host can read it: the tensor itself on the CPU; of a GPU's a copy, which is there
/// when the constructor returns; in planning zeros.
class HostView {
 public:
  HostView(Tensor x, Context& ctx);
  Tensor tensor() const { return tensor_; }
  template <class T>
  const T* as() const {
    return tensor_.as<T>();
  }

 private:
  std::vector<std::byte> copy_;
  Tensor tensor_;
};

/// Waits until everything that was started in this context is done; Error if any of it failed.
void synchronize(Context& ctx);

namespace cuda {  // transfer.cu
Stream make_stream();
void destroy(Stream stream) noexcept;
void transfer(Tensor dst, Tensor src, Context& ctx);
void synchronize(Stream stream);
}  // namespace cuda

}  // namespace tangram
