#pragma once
#include "kernels/communicator.h"

namespace tangram {

/// All ranks of this run of the tests.
Communicator& world();

/// A value of about 1 that any rank can compute, whose sums depend on their order in f32.
inline float rank_value(int rank, int64_t i) {
  uint64_t h = (uint64_t(i) * 0x9e3779b97f4a7c15 + uint64_t(rank) + 1) * 0xbf58476d1ce4e5b9;
  h ^= h >> 31;
  return float(double(h * 0x94d049bb133111eb >> 11) * 0x1p-52 - 1);
}

/// Does something wrong as one of several ranks, for the tests of failures; returns the process's exit code.
int misbehave(const std::string& how);

}  // namespace tangram
