#include "blocks/bpe.h"

#include <queue>
#include <tuple>

namespace tangram {
namespace {

constexpr int32_t kNone = -1;

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
  const auto merge = merges.find(merge_key(left, right));
  if (merge != merges.end()) queue.push({merge->second.rank, position, left, right, merge->second.token});
}

}  // namespace

void bpe_merge(std::vector<int32_t>& ids, const Merges& merges) {
  const int32_t n = int32_t(ids.size());
  if (n < 2 || merges.empty()) return;
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

}  // namespace tangram
