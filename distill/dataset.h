#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "distill/token_shard.h"

namespace tangram {

/// What one micro-batch trains on or is measured on: N tokens in whole sequences, packed one after another.
struct Batch {
  std::vector<int32_t> tokens;   ///< (N)
  std::vector<int32_t> targets;  ///< (N)  the next token of the same document; < 0: none, not counted
  std::vector<float> weights;    ///< (N)  of each token in the loss; empty: all 1
  std::vector<int32_t> lengths;  ///< of the segments, in order; attention stays inside each (SequenceBatch)
};

/// A batch of no text, for planning: `tokens` tokens in sequences of `length`, the last one perhaps shorter.
Batch blank_batch(int64_t tokens, int64_t length);

/// Packed text that training or evaluation draws from: the sequences of all shards, one after another.
struct TokenDataset {
  std::vector<TokenShard> shards;
  int64_t sequence_length = 0;
  int64_t sequences = 0;
  int64_t vocab_size = 0;
  bool weighted = false;  ///< a shard has weights; the others' tokens then have 1

  int64_t tokens() const { return sequences * sequence_length; }
};

/// Throws Error (bad_input) if there is no whole sequence, or the shards' sequences are not `sequence_length` long.
TokenDataset make_dataset(std::vector<TokenShard> shards, int64_t sequence_length, int64_t vocab_size);

/// The named sequences as one batch. Tokens and weights are checked here, when they are read: throws Error (bad_input)
/// naming the shard, the sequence and the value if a token is not of the vocabulary or a weight is negative or not
/// finite.
Batch read_batch(const TokenDataset& dataset, std::span<const int64_t> sequences);

/// Micro-batch `index` (from 0) of an endless training run: a pure function of its arguments, so a run that resumes
/// needs its step and nothing else.
///
///   draw i = index * batch_tokens / sequence_length + 0, 1, …    is sequence permuted(i mod S, S, seed, i div S)
///
/// Every S draws are an epoch: each sequence once, in an order of its own. With m micro-batches a step, step s has the
/// indices s m to s m + m - 1. Throws Error (bad_input) unless batch_tokens is a multiple of the sequence length, and
/// no more than the dataset has.
Batch training_batch(const TokenDataset& dataset, int64_t batch_tokens, uint64_t seed, int64_t index);

/// The dataset in order, once. The last batch may be shorter. Throws as training_batch does.
int64_t validation_batches(const TokenDataset& dataset, int64_t batch_tokens);
Batch validation_batch(const TokenDataset& dataset, int64_t batch_tokens, int64_t index);

}  // namespace tangram
