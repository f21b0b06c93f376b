#include "distill/dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "distill/permutation.h"
#include "kernels/error.h"

namespace tangram {
namespace {

int64_t sequences_per_batch(const TokenDataset& dataset, int64_t batch_tokens) {
  const int64_t T = dataset.sequence_length;
  if (batch_tokens <= 0 || batch_tokens % T != 0)
    throw bad_input("batches of {} tokens are not whole sequences of {}", batch_tokens, T);
  if (batch_tokens > dataset.tokens())
    throw bad_input("{}: {} tokens are fewer than one batch of {}; give more text or smaller batches",
                    dataset.shards.front().name, dataset.tokens(), batch_tokens);
  return batch_tokens / T;
}

void append_tokens(Batch& batch, const TokenShard& shard, int64_t sequence, int64_t vocab_size) {
  const auto check = [&](int32_t token) {
    if (token < 0 || token >= vocab_size)
      throw bad_input("{}: sequence {} has token {} of a vocabulary of {}", shard.name, sequence, token, vocab_size);
    return token;
  };
  auto token = shard.tokens.begin() + sequence * shard.sequence_length;
  const auto s = static_cast<size_t>(sequence);
  for (auto k = static_cast<size_t>(shard.first_segment[s]); k < static_cast<size_t>(shard.first_segment[s + 1]); ++k) {
    batch.lengths.push_back(shard.segment_length[k]);
    batch.tokens.push_back(check(*token++));
    for (int32_t i = 1; i < shard.segment_length[k]; ++i) {
      batch.targets.push_back(*token);
      batch.tokens.push_back(check(*token++));
    }
    batch.targets.push_back(check(shard.segment_next[k]));
  }
}

void append_weights(Batch& batch, const TokenShard& shard, int64_t sequence) {
  const auto T = static_cast<size_t>(shard.sequence_length);
  if (shard.weights.empty()) {
    batch.weights.resize(batch.weights.size() + T, 1.0f);
    return;
  }
  for (const float w : shard.weights.subspan(static_cast<size_t>(sequence) * T, T)) {
    if (!(w >= 0 && std::isfinite(w)))
      throw bad_input("{}: sequence {} has a loss weight of {}", shard.name, sequence, w);
    batch.weights.push_back(w);
  }
}

}  // namespace

Batch blank_batch(int64_t tokens, int64_t length) {
  Batch batch;
  batch.tokens.resize(static_cast<size_t>(tokens), 0);
  batch.targets.resize(static_cast<size_t>(tokens), -1);
  for (int64_t rest = tokens; rest > 0; rest -= length)
    batch.lengths.push_back(static_cast<int32_t>(std::min(rest, length)));
  return batch;
}

TokenDataset make_dataset(std::vector<TokenShard> shards, int64_t sequence_length, int64_t vocab_size) {
  TokenDataset dataset{.shards = {}, .sequence_length = sequence_length, .vocab_size = vocab_size};
  for (TokenShard& shard : shards) {
    if (shard.sequence_length != sequence_length)
      throw bad_input("{}: its sequences have {} tokens, not {}", shard.name, shard.sequence_length, sequence_length);
    dataset.sequences += shard.sequences();
    dataset.weighted |= !shard.weights.empty();
  }
  if (dataset.sequences == 0)
    throw bad_input("{}: the text is too short for one sequence of {} tokens",
                    shards.empty() ? "no data" : shards.front().name, sequence_length);
  dataset.shards = std::move(shards);
  return dataset;
}

Batch read_batch(const TokenDataset& dataset, std::span<const int64_t> sequences) {
  Batch batch;
  const size_t N = sequences.size() * static_cast<size_t>(dataset.sequence_length);
  batch.tokens.reserve(N), batch.targets.reserve(N);
  for (const int64_t sequence : sequences) {
    CHECK(0 <= sequence && sequence < dataset.sequences, "sequence {} of {}", sequence, dataset.sequences);
    int64_t s = sequence;
    auto shard = dataset.shards.begin();
    for (; s >= shard->sequences(); ++shard) s -= shard->sequences();
    append_tokens(batch, *shard, s, dataset.vocab_size);
    if (dataset.weighted) append_weights(batch, *shard, s);
  }
  return batch;
}

Batch training_batch(const TokenDataset& dataset, int64_t batch_tokens, uint64_t seed, int64_t index) {
  const int64_t count = sequences_per_batch(dataset, batch_tokens), S = dataset.sequences;
  CHECK(index >= 0, "batch {}", index);
  std::vector<int64_t> sequences;
  for (int64_t i = index * count; i < (index + 1) * count; ++i)
    sequences.push_back(permuted(i % S, S, seed, uint64_t(i / S)));
  return read_batch(dataset, sequences);
}

int64_t validation_batches(const TokenDataset& dataset, int64_t batch_tokens) {
  const int64_t count = sequences_per_batch(dataset, batch_tokens);
  return (dataset.sequences + count - 1) / count;
}

Batch validation_batch(const TokenDataset& dataset, int64_t batch_tokens, int64_t index) {
  const int64_t count = sequences_per_batch(dataset, batch_tokens);
  CHECK(0 <= index && index < validation_batches(dataset, batch_tokens), "batch {}", index);
  std::vector<int64_t> sequences(static_cast<size_t>(std::min(count, dataset.sequences - index * count)));
  std::iota(sequences.begin(), sequences.end(), index * count);
  return read_batch(dataset, sequences);
}

}  // namespace tangram
