#pragma once
#include <bit>
#include <cstdint>
#include <string_view>

#include "kernels/error.h"

namespace tangram {

/// Element types that a Tensor can have. Operations compute on f32 and bf16; the others are stored and converted.
enum class DType : uint8_t { f32, bf16, f16, i32, i64, u8 };

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType dtype) {
  constexpr std::string_view kNames[] = {"f32", "bf16", "f16", "i32", "i64", "u8"};
  return kNames[static_cast<int>(dtype)];
}

/// Relative rounding error of one conversion to `dtype`: 2^-24 for f32, 2^-8 for bf16.
constexpr double unit_roundoff(DType dtype) { return dtype == DType::f32 ? 0x1p-24 : 0x1p-8; }

/// bfloat16: the upper half of an f32. Conversion rounds to nearest even; NaN stays NaN.
struct bf16 {
  uint16_t bits;

  bf16() = default;
  explicit bf16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    bits = static_cast<uint16_t>((u & 0x7fffffff) > 0x7f800000 ? (u >> 16) | 0x40 : rounded);
  }
  operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

/// IEEE half precision to and from f32, rounding to nearest even.
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() {
  return DType::f32;
}
template <>
constexpr DType dtype_of<bf16>() {
  return DType::bf16;
}
template <>
constexpr DType dtype_of<int32_t>() {
  return DType::i32;
}
template <>
constexpr DType dtype_of<int64_t>() {
  return DType::i64;
}
template <>
constexpr DType dtype_of<uint8_t>() {
  return DType::u8;
}

/// Calls f.operator()<T>() with the C++ type of a compute dtype: dispatch(x.dtype, [&]<class T>() { … }).
template <class F>
decltype(auto) dispatch(DType dtype, F&& f) {
  if (dtype == DType::f32) return f.template operator()<float>();
  if (dtype == DType::bf16) return f.template operator()<bf16>();
  throw Error(fmt::format("no arithmetic on {}; only f32 and bf16", name_of(dtype)));
}

}  // namespace tangram
