#pragma once
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace tangram {

/// What becomes of two neighbouring tokens.
struct Merge {
  int32_t rank;   ///< lower merges first
  int32_t token;  ///< the id of both together
};

/// The merges of a byte-pair encoding by merge_key(left id, right id).
using Merges = std::unordered_map<uint64_t, Merge>;

inline uint64_t merge_key(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }

/// Byte-pair encoding of one word (Sennrich et al. 2016, arXiv:1508.07909): merges neighbours in `ids`, always the pair
/// of the lowest rank and of those the leftmost, until none of the neighbours has a merge. O(n log n) for n ids.
void bpe_merge(std::vector<int32_t>& ids, const Merges& merges);

}  // namespace tangram
