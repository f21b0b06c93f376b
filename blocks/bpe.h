#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace tangram {

/// What becomes of two neighbouring tokens.
struct Merge {
  int32_t rank;   ///< lower merges first
  int32_t token;  ///< the id of both together
};

/// The merges of a byte-pair encoding, by the ids of the left and the right token. Ids are not negative. One open
/// table: most lookups find nothing, and cost one line of the cache.
class Merges {
 public:
  /// Makes room for `count` merges.
  void reserve(size_t count);
  /// A second merge of the same pair replaces the first.
  void insert_or_assign(int32_t left, int32_t right, Merge merge);
  /// Null if the pair does not merge.
  const Merge* find(int32_t left, int32_t right) const {
    if (size_ == 0) return nullptr;
    const uint64_t key = key_of(left, right);
    for (size_t at = place_of(key);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].key == key) return &slots_[at].merge;
      if (slots_[at].key == kFree) return nullptr;
    }
  }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  struct Entry {
    int32_t left, right;
    Merge merge;
  };
  /// All, from the lowest rank to the highest.
  std::vector<Entry> by_rank() const;

 private:
  static constexpr uint64_t kFree = ~uint64_t(0);  // no pair of ids that are not negative
  struct Slot {
    uint64_t key = kFree;
    Merge merge{};
  };
  static uint64_t key_of(int32_t left, int32_t right) { return uint64_t(uint32_t(left)) << 32 | uint32_t(right); }
  // Fibonacci hashing: the high bits of a product with 2^64 over the golden ratio.
  size_t place_of(uint64_t key) const { return size_t((key ^ key >> 29) * 0x9E3779B97F4A7C15 >> shift_); }

  std::vector<Slot> slots_;  // a power of two, at most half of them taken
  int shift_ = 64;           // 64 - log2 of their number
  size_t size_ = 0;
};

/// Byte-pair encoding of one word (Sennrich et al. 2016, arXiv:1508.07909): merges neighbours in `ids`, always the pair
/// of the lowest rank and of those the leftmost, until none of the neighbours has a merge. O(n log n) for n ids.
void bpe_merge(std::vector<int32_t>& ids, const Merges& merges);

}  // namespace tangram
