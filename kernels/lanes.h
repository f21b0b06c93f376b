#pragma once
#include "kernels/dtype.h"

namespace tangram {

constexpr int kLanes = 8;  ///< f32 in one vector register of the baseline machine

/// Eight f32 in one register; it may lie at any float's address and alias floats.
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline Lanes load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }
inline void store(float* p, Lanes v) { *reinterpret_cast<Lanes*>(p) = v; }

// Of 16 bf16 in a register, seen as 8 words, a shift yields the even ones as f32 and a mask the odd ones.
using Bf16Pairs = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t)), aligned(2), may_alias));
inline Lanes load_pairs(const bf16* p) { return reinterpret_cast<Lanes>(*reinterpret_cast<const Bf16Pairs*>(p)); }
inline Lanes load_even(const bf16* p) { return reinterpret_cast<Lanes>(*reinterpret_cast<const Bf16Pairs*>(p) << 16); }
inline Lanes load_odd(const bf16* p) {
  return reinterpret_cast<Lanes>(*reinterpret_cast<const Bf16Pairs*>(p) & 0xffff0000u);
}

/// Eight elements as f32.
inline Lanes widen(const float* p) { return load(p); }
inline Lanes widen(const bf16* p) {
  using Halves = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t)), aligned(2), may_alias));
  using Words = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));
  return reinterpret_cast<Lanes>(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}

/// Rows become columns.
inline void transpose(Lanes (&x)[kLanes]) {
  Lanes pairs[kLanes], quads[kLanes];
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < kLanes; i += 4)
    for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = __builtin_shufflevector(pairs[i + j], pairs[i + 2 + j], 0, 1, 8, 9, 4, 5, 12, 13);
      quads[i + 2 * j + 1] = __builtin_shufflevector(pairs[i + j], pairs[i + 2 + j], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; ++i) {
    x[i] = __builtin_shufflevector(quads[i], quads[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    x[i + 4] = __builtin_shufflevector(quads[i], quads[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

inline Lanes broadcast(float x) { return Lanes{x, x, x, x, x, x, x, x}; }
inline Lanes max(Lanes a, Lanes b) { return a > b ? a : b; }

inline float lane_sum(Lanes v) {
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
  return v[0] + v[1];
}

inline float lane_max(Lanes v) {
  v = max(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = max(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  return v[0] > v[1] ? v[0] : v[1];
}

}  // namespace tangram
