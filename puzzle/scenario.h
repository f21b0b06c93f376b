#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "kernels/dtype.h"

namespace tangram {

/// How the numbers of a model are stored when it is served. Tangram's own kernels run f32 and bf16; costs can be
/// modelled for all.
enum class Precision : uint8_t { f32, bf16, f16, fp8 };

constexpr std::string_view kPrecisionNames[] = {"f32", "bf16", "f16", "fp8"};
constexpr std::string_view name_of(Precision precision) { return kPrecisionNames[static_cast<int>(precision)]; }
constexpr int64_t size_of(Precision precision) {
  return precision == Precision::f32 ? 4 : precision == Precision::fp8 ? 1 : 2;
}

/// The element type in which Tangram computes at a precision. Throws Error (bad_input) where it has none.
DType dtype_of(Precision precision);

/// A load that costs are given for: `concurrency` sequences that run together, each with so many tokens in and out, on
/// `tensor_parallel` devices that each hold a part of every matrix.
struct Scenario {
  std::string name;
  int64_t input_tokens = 0;                        ///< of one sequence
  int64_t output_tokens = 0;                       ///< of one sequence
  int64_t concurrency = 0;                         ///< sequences
  Precision precision = Precision::bf16;           ///< of weights and matrix products
  std::optional<Precision> own_kv_precision = {};  ///< of the KV cache, where it is not `precision`
  int64_t tensor_parallel = 1;                     ///< devices

  Precision kv_precision() const { return own_kv_precision.value_or(precision); }
  /// Activations keep 16 bits where weights and products have 8.
  int64_t activation_bytes() const { return precision == Precision::fp8 ? 2 : size_of(precision); }
  /// `chat` for `chat@64`: scenarios of one group differ in their concurrency only, which a search may choose.
  std::string_view group() const { return std::string_view(name).substr(0, name.rfind('@')); }

  bool operator==(const Scenario& other) const {
    const auto key = [](const Scenario& s) {
      return std::tuple(s.name, s.input_tokens, s.output_tokens, s.concurrency, s.precision, s.kv_precision(),
                        s.tensor_parallel);
    };
    return key(*this) == key(other);
  }
};

/// Throws Error (bad_input) unless Tangram's own kernels can run the scenario, so that it can be measured.
void check_runnable(const Scenario& scenario);

}  // namespace tangram
