#pragma once
#include "kernels/cuda.cuh"

namespace tangram::cuda {

/// One launch over many tensors: each is cut into blocks, and the grid is all of their blocks. The entry that `block`
/// belongs to, in a table of `count` entries in ascending order of `first_block`.
template <class Entry>
__device__ const Entry& entry_of_block(const Entry* table, int64_t count, int64_t block) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (table[middle].first_block <= block ? low : high) = middle;
  }
  return table[low];
}

}  // namespace tangram::cuda
