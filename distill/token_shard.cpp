#include "distill/token_shard.h"

#include <algorithm>
#include <utility>

#include "kernels/error.h"

namespace tangram {

TokenPacker::TokenPacker(int64_t sequence_length) : sequence_length_(sequence_length) {
  CHECK(sequence_length > 0, "sequences of {} tokens", sequence_length);
}

void TokenPacker::add(std::span<const int32_t> document, std::span<const float> weights) {
  CHECK(weights.empty() || weights.size() == document.size(), "{} weights for {} tokens", weights.size(),
        document.size());
  const auto T = static_cast<size_t>(sequence_length_);
  Packed& p = packed_;
  CHECK(p.tokens.size() + document.size() < size_t{1} << 31, "over 2^31 tokens in one shard");
  if (!weights.empty()) p.weights.resize(p.tokens.size(), 1.0f);
  for (size_t i = 0; i + 1 < document.size();) {
    const size_t length = std::min(T - p.tokens.size() % T, document.size() - 1 - i);
    const auto inputs = document.subspan(i, length);
    p.tokens.insert(p.tokens.end(), inputs.begin(), inputs.end());
    p.segment_length.push_back(static_cast<int32_t>(length));
    p.segment_next.push_back(document[i + length]);
    if (!weights.empty()) {
      const auto of_targets = weights.subspan(i + 1, length);
      p.weights.insert(p.weights.end(), of_targets.begin(), of_targets.end());
    }
    if (p.tokens.size() % T == 0) p.first_segment.push_back(static_cast<int32_t>(p.segment_length.size()));
    i += length;
  }
  if (!p.weights.empty()) p.weights.resize(p.tokens.size(), 1.0f);
}

// Moves everything from element `first` on out of `from`.
template <class V>
static V split_off(V& from, size_t first) {
  V tail(from.begin() + static_cast<ptrdiff_t>(std::min(first, from.size())), from.end());
  from.resize(std::min(first, from.size()));
  return tail;
}

TokenShard TokenPacker::take(std::string name) {
  const auto tokens = static_cast<size_t>(sequences() * sequence_length_);
  const auto segments = static_cast<size_t>(packed_.first_segment.back());
  Packed rest;
  rest.tokens = split_off(packed_.tokens, tokens);
  rest.weights = split_off(packed_.weights, tokens);
  rest.segment_length = split_off(packed_.segment_length, segments);
  rest.segment_next = split_off(packed_.segment_next, segments);
  const auto full = std::make_shared<const Packed>(std::exchange(packed_, std::move(rest)));
  return {.name = std::move(name),
          .sequence_length = sequence_length_,
          .tokens = full->tokens,
          .first_segment = full->first_segment,
          .segment_length = full->segment_length,
          .segment_next = full->segment_next,
          .weights = full->weights,
          .memory = full};
}

}  // namespace tangram
