#pragma once
#include <climits>

#include "kernels/cuda.cuh"

namespace tangram::cuda {

/// An element that may be the largest: of equal ones the lower id is the larger. No two of a row are equal, so what
/// wins does not depend on who meets whom first.
struct Candidate {
  float rank;
  int id;
};

constexpr int kNoId = INT_MAX;

__device__ inline Candidate no_candidate() { return {-INFINITY, kNoId}; }

__device__ inline bool beats(Candidate a, Candidate b) { return a.rank > b.rank || (a.rank == b.rank && a.id < b.id); }

__device__ inline Candidate better(Candidate a, Candidate b) { return beats(a, b) ? a : b; }

__device__ inline Candidate from_lane(Candidate c, int lane) {
  return {__shfl_sync(kAllLanes, c.rank, lane), __shfl_sync(kAllLanes, c.id, lane)};
}

__device__ inline Candidate best_of_warp(Candidate c) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2)
    c = better(c, {__shfl_xor_sync(kAllLanes, c.rank, mask), __shfl_xor_sync(kAllLanes, c.id, mask)});
  return c;
}

/// The K largest that a warp has seen: lane i holds the i-th.
template <int K>
class WarpTop {
 public:
  /// Lane i's.
  __device__ Candidate mine() const { return mine_; }

  /// Takes in x[i] of id(i) of every lane, where bit i of `present` is set. `largest` is at least each of them. Called
  /// by all lanes.
  template <int M, class Id>
  __device__ void add(const float (&x)[M], float largest, unsigned present, Id&& id) {
    if (!__any_sync(kAllLanes, largest >= last_.rank)) return;
    const auto best_present = [&] {
      Candidate c = no_candidate();
#pragma unroll
      for (int i = 0; i < M; ++i)
        if (present >> i & 1) c = better(c, {x[i], id(i)});
      return c;
    };
    Candidate c = best_present();
    while (__any_sync(kAllLanes, beats(c, last_))) {
      const Candidate best = best_of_warp(c);
      insert(best);
      if (c.id != best.id) continue;
#pragma unroll
      for (int i = 0; i < M; ++i)
        if (id(i) == best.id) present &= ~(1u << i);
      c = best_present();
    }
  }

 private:
  __device__ void insert(Candidate c) {
    const int lane = thread_number() % kWarp, place = __popc(__ballot_sync(kAllLanes, beats(mine_, c)));
    const Candidate before = from_lane(mine_, lane > 0 ? lane - 1 : 0);
    if (lane == place) mine_ = c;
    if (lane > place && lane < K) mine_ = before;
    last_ = from_lane(mine_, K - 1);
  }

  Candidate mine_ = no_candidate(), last_ = no_candidate();
};

}  // namespace tangram::cuda
