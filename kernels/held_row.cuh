#pragma once
#include <cstring>

#include "kernels/cover.cuh"

namespace tangram::cuda {

constexpr int kRowThreads = 256;  // of a block that owns a row

/// What one thread of such a block holds of its row between two passes: of the packs threadIdx.x, threadIdx.x +
/// kRowThreads and so on the first kHeld, enough for 8192 columns of bf16. What is beyond is loaded once more.
template <class P>
class HeldRow {
 public:
  /// Calls use(i, load(i)) for every pack i of this thread, with the loads of all that is held in flight together: no
  /// branch is between them, and a thread without so many packs loads the last one of the row.
  template <class Load, class Use>
  __device__ void first_pass(int packs, Load&& load, Use&& use) {
#pragma unroll
    for (int k = 0; k < kHeld; ++k) hold(k, load(min(pack_of(k), packs - 1)));
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (pack_of(k) < packs) use(pack_of(k), held(k));
    for (int i = pack_of(kHeld); i < packs; i += kRowThreads) use(i, load(i));
  }

  /// The same packs again; `load` is called for those that are not held.
  template <class Load, class Use>
  __device__ void second_pass(int packs, Load&& load, Use&& use) const {
#pragma unroll
    for (int k = 0; k < kHeld; ++k)
      if (pack_of(k) < packs) use(pack_of(k), held(k));
    for (int i = pack_of(kHeld); i < packs; i += kRowThreads) use(i, load(i));
  }

 private:
  static constexpr int kHeld = 4;
  static __device__ int pack_of(int k) { return int(threadIdx.x) + k * kRowThreads; }

  // As words: of a pack of bf16 the compiler would keep every element in a register of its own.
  __device__ void hold(int k, const P& pack) { memcpy(words_[k], &pack, sizeof(P)); }
  __device__ P held(int k) const {
    P pack;
    memcpy(&pack, words_[k], sizeof(P));
    return pack;
  }

  unsigned words_[kHeld][(sizeof(P) + 3) / 4];
};

}  // namespace tangram::cuda
