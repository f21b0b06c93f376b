#include "distill/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "kernels/error.h"
#include "kernels/random.h"

namespace tangram {
namespace {

using Documents = std::vector<std::vector<int32_t>>;

/// Documents whose every token is a number of its own, so that a target names its place.
Documents numbered_documents(std::span<const int> lengths) {
  Documents documents;
  int32_t next = 0;
  for (const int length : lengths) {
    documents.emplace_back();
    for (int i = 0; i < length; ++i) documents.back().push_back(next++);
  }
  return documents;
}

std::vector<int> random_lengths(uint64_t stream, int count, int most) {
  std::vector<int> lengths;
  for (int i = 0; i < count; ++i) lengths.push_back(int(random_below(uint64_t(most) + 1, 1, stream, uint64_t(i))));
  return lengths;
}

/// An input of the corpus: its target, its weight, and whether its segment starts there.
struct Pair {
  int32_t token, target;
  float weight;
  bool starts;
  bool operator==(const Pair&) const = default;
};

/// What packing has to give, by brute force: all (token, next token) pairs in order, a segment starting at each
/// document and at each multiple of T; cut down to whole sequences.
std::vector<Pair> expected_pairs(const Documents& documents, int64_t T, bool weighted) {
  std::vector<Pair> pairs;
  for (const auto& d : documents)
    for (size_t i = 0; i + 1 < d.size(); ++i)
      pairs.push_back(
          {d[i], d[i + 1], weighted ? float(d[i + 1]) / 4 : 1.0f, i == 0 || int64_t(pairs.size()) % T == 0});
  pairs.resize(pairs.size() / size_t(T) * size_t(T));
  return pairs;
}

std::vector<Pair> pairs_of(const Batch& batch) {
  std::vector<Pair> pairs;
  for (const int32_t length : batch.lengths)
    for (int32_t i = 0; i < length; ++i) {
      const size_t n = pairs.size();
      pairs.push_back(
          {batch.tokens.at(n), batch.targets.at(n), batch.weights.empty() ? 1.0f : batch.weights.at(n), i == 0});
    }
  EXPECT_EQ(pairs.size(), batch.tokens.size());
  EXPECT_EQ(pairs.size(), batch.targets.size());
  return pairs;
}

void add(TokenPacker& packer, const std::vector<int32_t>& document, bool weighted) {
  std::vector<float> weights;
  for (const int32_t token : document) weights.push_back(float(token) / 4);
  packer.add(document, weighted ? std::span<const float>(weights) : std::span<const float>());
}

TokenDataset pack(const Documents& documents, int64_t T, bool weighted = false) {
  TokenPacker packer(T);
  for (const auto& d : documents) add(packer, d, weighted);
  std::vector<TokenShard> shards;
  shards.push_back(packer.take("test"));
  return make_dataset(std::move(shards), T, 1 << 20);
}

std::vector<Pair> all_pairs(const TokenDataset& dataset, int64_t batch_tokens) {
  std::vector<Pair> pairs;
  for (int64_t b = 0; b < validation_batches(dataset, batch_tokens); ++b)
    for (const Pair& p : pairs_of(validation_batch(dataset, batch_tokens, b))) pairs.push_back(p);
  return pairs;
}

TEST(Packing, HandWorked) {
  // Documents 0 1 2 | 3 4 5 6 7 8 | 9 | 10 11 in sequences of 4: inputs 0 1 3 4, then 5 6 7 10.
  const TokenDataset dataset = pack(numbered_documents(std::vector{3, 6, 1, 2}), 4);
  ASSERT_EQ(dataset.sequences, 2);
  const Batch batch = validation_batch(dataset, 8, 0);
  EXPECT_THAT(batch.tokens, testing::ElementsAre(0, 1, 3, 4, 5, 6, 7, 10));
  EXPECT_THAT(batch.targets, testing::ElementsAre(1, 2, 4, 5, 6, 7, 8, 11));
  EXPECT_THAT(batch.lengths, testing::ElementsAre(2, 2, 3, 1));
  EXPECT_TRUE(batch.weights.empty());
}

TEST(Packing, AgreesWithBruteForce) {
  for (uint64_t stream = 0; stream < 60; ++stream)
    for (int64_t T : {1, 2, 7, 16})
      for (bool weighted : {false, true}) {
        const Documents documents = numbered_documents(random_lengths(stream, 12, stream % 2 ? 5 : 40));
        const std::vector<Pair> expected = expected_pairs(documents, T, weighted);
        if (expected.empty()) continue;
        const TokenDataset dataset = pack(documents, T, weighted);
        EXPECT_EQ(dataset.weighted, weighted);
        ASSERT_EQ(all_pairs(dataset, T), expected) << "stream " << stream << ", T " << T;
      }
}

TEST(Packing, ShardsContinueEachOther) {
  // Taking a shard at any moment changes nothing about the whole.
  const Documents documents = numbered_documents(random_lengths(7, 30, 25));
  const std::vector<Pair> expected = expected_pairs(documents, 8, true);
  for (size_t every : {1, 3, 10}) {
    TokenPacker packer(8);
    std::vector<TokenShard> shards;
    for (size_t i = 0; i < documents.size(); ++i) {
      add(packer, documents[i], true);
      if (i % every == 0) shards.push_back(packer.take("part"));
    }
    shards.push_back(packer.take("end"));
    const TokenDataset dataset = make_dataset(std::move(shards), 8, 1 << 20);
    ASSERT_EQ(all_pairs(dataset, 8), expected) << every;
  }
}

TEST(Packing, DocumentsWithoutWeightsCountOne) {
  TokenPacker packer(2);
  packer.add(std::vector<int32_t>{1, 2, 3});
  packer.add(std::vector<int32_t>{4, 5, 6}, std::vector<float>{9, 0.5, 0.25});
  packer.add(std::vector<int32_t>{7, 8, 9});
  EXPECT_THAT(packer.take("test").weights, testing::ElementsAre(1, 1, 0.5, 0.25, 1, 1));
}

TEST(Sampler, EveryEpochShowsEverySequenceOnce) {
  const TokenDataset dataset = pack(numbered_documents(std::vector{1000}), 9);  // 111 sequences
  ASSERT_EQ(dataset.sequences, 111);
  std::vector<int32_t> first_tokens;  // of each draw, over three epochs: 37 batches of 3 sequences each
  for (int64_t index = 0; index < 111; ++index) {
    const Batch batch = training_batch(dataset, 27, 5, index);
    for (size_t s = 0; s < 3; ++s) first_tokens.push_back(batch.tokens[s * 9]);
  }
  std::vector<std::vector<int32_t>> epochs;
  for (size_t e = 0; e < 3; ++e) {
    epochs.emplace_back(first_tokens.begin() + ptrdiff_t(e * 111), first_tokens.begin() + ptrdiff_t((e + 1) * 111));
    const std::set<int32_t> distinct(epochs[e].begin(), epochs[e].end());
    EXPECT_EQ(distinct.size(), 111u);
    EXPECT_FALSE(std::is_sorted(epochs[e].begin(), epochs[e].end()));
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(Sampler, EpochsRunOnInsideABatch) {
  const TokenDataset dataset = pack(numbered_documents(std::vector{51}), 5);  // 10 sequences, 4 a batch
  std::multiset<int32_t> first_tokens;
  for (int64_t index = 0; index < 5; ++index) {
    const Batch batch = training_batch(dataset, 20, 1, index);
    for (size_t s = 0; s < 4; ++s) first_tokens.insert(batch.tokens[s * 5]);
  }
  for (int32_t s = 0; s < 10; ++s) EXPECT_EQ(first_tokens.count(5 * s), 2u) << s;
}

TEST(Sampler, IsAFunctionOfSeedAndIndex) {
  const TokenDataset dataset = pack(numbered_documents(std::vector{1000}), 9);
  EXPECT_EQ(training_batch(dataset, 18, 3, 77).tokens, training_batch(dataset, 18, 3, 77).tokens);
  EXPECT_NE(training_batch(dataset, 18, 3, 77).tokens, training_batch(dataset, 18, 4, 77).tokens);
  // Larger batches draw the same sequences in the same order.
  const Batch both = training_batch(dataset, 36, 3, 20);
  std::vector<int32_t> halves = training_batch(dataset, 18, 3, 40).tokens;
  const Batch second = training_batch(dataset, 18, 3, 41);
  halves.insert(halves.end(), second.tokens.begin(), second.tokens.end());
  EXPECT_EQ(both.tokens, halves);
}

TEST(Validation, InOrderOnceWithAShorterEnd) {
  const Documents documents = numbered_documents(std::vector{300, 40, 17});
  const TokenDataset dataset = pack(documents, 10);
  ASSERT_EQ(dataset.sequences, 35);
  EXPECT_EQ(validation_batches(dataset, 40), 9);
  EXPECT_EQ(validation_batch(dataset, 40, 8).tokens.size(), 30u);
  EXPECT_EQ(all_pairs(dataset, 40), expected_pairs(documents, 10, false));
}

template <class F>
void expect_refused(F&& f, const std::string& part) {
  try {
    f();
    ADD_FAILURE() << "not refused: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.failure, Failure::bad_input) << e.what();
    EXPECT_THAT(e.what(), testing::HasSubstr(part));
  }
}

TEST(Dataset, RefusesTooLittleText) {
  expect_refused([] { make_dataset({}, 8, 10); }, "too short");
  expect_refused([] { pack(numbered_documents(std::vector{8}), 8); }, "test: the text is too short");
  const TokenDataset dataset = pack(numbered_documents(std::vector{9}), 8);
  EXPECT_EQ(dataset.sequences, 1);
  expect_refused([&] { training_batch(dataset, 16, 0, 0); }, "8 tokens are fewer than one batch of 16");
  expect_refused([&] { training_batch(dataset, 12, 0, 0); }, "not whole sequences of 8");
  expect_refused([&] { validation_batch(dataset, 0, 0); }, "not whole sequences of 8");
}

TEST(Dataset, RefusesWrongShards) {
  TokenPacker packer(4);
  packer.add(std::vector<int32_t>{0, 1, 2, 3, 63});
  packer.add(std::vector<int32_t>{0, 1, 64, 3, 4});
  packer.add(std::vector<int32_t>{0, 1, -1, 3, 4});
  packer.add(std::vector<int32_t>{0, 1, 2, 3, 64});
  packer.add(std::vector<int32_t>{0, 1, 2, 3, 4}, std::vector<float>{1, 1, -1, 1, 1});
  packer.add(std::vector<int32_t>{0, 1, 2, 3, 4}, std::vector<float>(5, std::numeric_limits<float>::infinity()));
  const std::vector<TokenShard> shards = {packer.take("shard")};
  expect_refused([&] { make_dataset(shards, 8, 64); }, "shard: its sequences have 4 tokens, not 8");
  const TokenDataset dataset = make_dataset(shards, 4, 64);
  EXPECT_NO_THROW(validation_batch(dataset, 4, 0));
  expect_refused([&] { validation_batch(dataset, 4, 1); }, "shard: sequence 1 has token 64 of a vocabulary of 64");
  expect_refused([&] { validation_batch(dataset, 4, 2); }, "shard: sequence 2 has token -1");
  expect_refused([&] { validation_batch(dataset, 4, 3); }, "shard: sequence 3 has token 64");
  expect_refused([&] { validation_batch(dataset, 4, 4); }, "shard: sequence 4 has a loss weight of -1");
  expect_refused([&] { validation_batch(dataset, 4, 5); }, "shard: sequence 5 has a loss weight of inf");
}

}  // namespace
}  // namespace tangram
