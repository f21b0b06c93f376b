#include "blocks/bpe.h"

#include <algorithm>
#include <array>
#include <bit>
#include <queue>
#include <tuple>

namespace tangram {
namespace {

constexpr int32_t kNone = -1;
constexpr size_t kShortWord = 32;  // up to here, looking at all pairs again is faster than a heap of them

// A word as a linked list: a merge keeps its left symbol's place and unlinks the right one.
struct Symbol {
  int32_t id;  // kNone: unlinked
  int32_t previous, next;
};

struct Candidate {
  int32_t rank, position;      // of the left symbol
  int32_t left, right, token;  // ids; the candidate is stale once the symbols there are others
};

struct Later {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return std::tie(a.rank, a.position) > std::tie(b.rank, b.position);
  }
};

using Queue = std::priority_queue<Candidate, std::vector<Candidate>, Later>;

void offer(Queue& queue, const std::vector<Symbol>& symbols, int32_t position, const Merges& merges) {
  if (position == kNone || symbols[position].next == kNone) return;
  const int32_t left = symbols[position].id, right = symbols[symbols[position].next].id;
  if (const Merge* merge = merges.find(left, right)) queue.push({merge->rank, position, left, right, merge->token});
}

void merge_short(std::vector<int32_t>& ids, const Merges& merges) {
  constexpr Merge kNever{INT32_MAX, kNone};
  std::array<Merge, kShortWord> pairs;  // of ids[i] and ids[i + 1]
  size_t n = ids.size();
  const auto look = [&](size_t i) {
    const Merge* merge = i + 1 < n ? merges.find(ids[i], ids[i + 1]) : nullptr;
    pairs[i] = merge ? *merge : kNever;
  };
  for (size_t i = 0; i < n; ++i) look(i);
  for (;;) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (pairs[i].rank < pairs[best].rank) best = i;
    if (pairs[best].token == kNone) break;
    ids[best] = pairs[best].token;
    std::copy(ids.begin() + ptrdiff_t(best) + 2, ids.begin() + ptrdiff_t(n), ids.begin() + ptrdiff_t(best) + 1);
    std::copy(pairs.begin() + best + 2, pairs.begin() + n, pairs.begin() + best + 1);
    --n;
    look(best);
    if (best > 0) look(best - 1);
  }
  ids.resize(n);
}

void merge_long(std::vector<int32_t>& ids, const Merges& merges) {
  const int32_t n = int32_t(ids.size());
  std::vector<Symbol> symbols(n);
  for (int32_t i = 0; i < n; ++i) symbols[i] = {ids[i], i - 1, i + 1 < n ? i + 1 : kNone};
  std::vector<Candidate> storage;
  storage.reserve(n);
  Queue queue(Later(), std::move(storage));
  for (int32_t i = 0; i + 1 < n; ++i) offer(queue, symbols, i, merges);

  while (!queue.empty()) {
    const Candidate c = queue.top();
    queue.pop();
    Symbol& left = symbols[c.position];
    if (left.id != c.left || left.next == kNone || symbols[left.next].id != c.right) continue;
    Symbol& right = symbols[left.next];
    left.id = c.token;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) symbols[left.next].previous = c.position;
    offer(queue, symbols, left.previous, merges);
    offer(queue, symbols, c.position, merges);
  }

  ids.clear();
  for (int32_t i = 0; i != kNone; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace

void Merges::reserve(size_t count) {
  const size_t slots = std::bit_ceil(std::max<size_t>(2 * count, 16));
  if (slots <= slots_.size()) return;
  const std::vector<Entry> entries = by_rank();
  slots_.assign(slots, {});
  shift_ = 64 - std::countr_zero(slots);
  size_ = 0;
  for (const Entry& e : entries) insert_or_assign(e.left, e.right, e.merge);
}

void Merges::insert_or_assign(int32_t left, int32_t right, Merge merge) {
  reserve(size_ + 1);
  const uint64_t key = key_of(left, right);
  size_t at = place_of(key);
  while (slots_[at].key != key && slots_[at].key != kFree) at = (at + 1) & (slots_.size() - 1);
  size_ += slots_[at].key == kFree;
  slots_[at] = {key, merge};
}

std::vector<Merges::Entry> Merges::by_rank() const {
  std::vector<Entry> entries;
  entries.reserve(size_);
  for (const Slot& slot : slots_)
    if (slot.key != kFree) entries.push_back({int32_t(slot.key >> 32), int32_t(slot.key & UINT32_MAX), slot.merge});
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.merge.rank, a.left, a.right) < std::tie(b.merge.rank, b.left, b.right);
  });
  return entries;
}

void bpe_merge(std::vector<int32_t>& ids, const Merges& merges) {
  if (ids.size() < 2 || merges.empty()) return;
  if (ids.size() <= kShortWord)
    merge_short(ids, merges);
  else
    merge_long(ids, merges);
}

}  // namespace tangram
