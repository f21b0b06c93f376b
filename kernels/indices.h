#pragma once
#include <span>
#include <vector>

#include "kernels/context.h"

namespace tangram {

/// Whole numbers that steer an operation: token ids, offsets, pages. A view of host memory and, where one batch goes
/// through many operations of a GPU, of a copy there. Where only the copy is given (a graph that is launched again and
/// again over changing numbers), the host's `span` is empty and an operation checks nothing.
class Indices {
 public:
  Indices() = default;
  Indices(std::span<const int32_t> host) : host_(host), size_(host.size()) {}  // NOLINT: a view of the same numbers
  Indices(const std::vector<int32_t>& host) : Indices(std::span(host)) {}      // NOLINT
  /// `copy` is (1, size) i32 on the GPU.
  Indices(std::span<const int32_t> host, Tensor copy) : host_(host), copy_(copy), size_(size_t(copy.cols)) {}

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int32_t operator[](size_t i) const { return host_[i]; }
  std::span<const int32_t> span() const { return host_; }
  Indices first(size_t count) const {
    Indices part = *this;
    part.size_ = count;
    part.host_ = host_.first(host_.empty() ? 0 : count);
    return part;
  }

  /// Where the context's device reads them: the host's memory, or the copy; without one the numbers are sent to
  /// scratch memory (take an ArenaScope first).
  const int32_t* on_device(Context& ctx) const;

 private:
  std::span<const int32_t> host_;
  Tensor copy_;
  size_t size_ = 0;
};

/// Numbers in memory that operations may change: where they are a GPU's, only it knows them.
///
///   numbers  (1, size)  i32
inline Indices indices_in(Tensor numbers) {
  if (numbers.device == Device::cuda) return {{}, numbers};
  return std::span<const int32_t>(numbers.as<int32_t>(), static_cast<size_t>(numbers.cols));
}

/// A copy of `host` in `memory`, which is the context's device's; on the CPU, and in planning, only its size counts.
Indices send(std::span<const int32_t> host, Arena& memory, Context& ctx);

}  // namespace tangram
