#pragma once
#include <span>

#include "kernels/tensor.h"

namespace tangram {

/// A weight matrix (O, K) as it is stored. Every product takes a Weight, so a quantised model needs no second set of
/// variants: only `matmul_forward` learns another layout.
struct Weight {
  enum class Layout : uint8_t { plain };  ///< plain: `values` is (O, K) of a compute dtype

  Tensor values;  ///< (O, K)
  Layout layout = Layout::plain;

  Weight() = default;
  Weight(Tensor plain) : values(plain) {}  // NOLINT: a plain matrix is a weight
};

/// Takes from the front of a list the matrices that follow each other in memory without a gap, as the one that they are
/// together. The list must not be empty.
Weight stack_adjacent(std::span<const Weight>& list);

}  // namespace tangram
