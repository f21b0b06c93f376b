#pragma once
#include <cstdint>
#include <string>

#include "kernels/dtype.h"

namespace tangram {

/// A load that costs are given for: `concurrency` sequences that run together, each with so many tokens in and out.
struct Scenario {
  std::string name;
  int64_t input_tokens = 0;       ///< of one sequence
  int64_t output_tokens = 0;      ///< of one sequence
  int64_t concurrency = 0;        ///< sequences
  DType precision = DType::bf16;  ///< of weights, activations and KV cache

  bool operator==(const Scenario&) const = default;
};

}  // namespace tangram
