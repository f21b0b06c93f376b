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
inline Lanes load_even(const bf16* p) { return reinterpret_cast<Lanes>(*reinterpret_cast<const Bf16Pairs*>(p) << 16); }
inline Lanes load_odd(const bf16* p) {
  return reinterpret_cast<Lanes>(*reinterpret_cast<const Bf16Pairs*>(p) & 0xffff0000u);
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
