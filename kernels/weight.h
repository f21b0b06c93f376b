#pragma once
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

}  // namespace tangram
