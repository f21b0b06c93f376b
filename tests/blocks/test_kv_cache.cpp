#include "blocks/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>

#include "blocks/model.h"
#include "tests/own_sequences.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

// By hand: the new tokens are at least a quarter of the window and 16; the ring is whole pages of 16.
TEST(KeptTokens, ARingOfTheWindowAndWhatIsWrittenAtOnce) {
  const auto expect = [](int64_t tokens, int64_t window, int64_t rows, int64_t at_once) {
    const KeptTokens kept = kept_tokens(tokens, window);
    EXPECT_EQ(kept.rows, rows) << window << " of " << tokens;
    EXPECT_EQ(kept.tokens_at_once, at_once) << window << " of " << tokens;
  };
  expect(100, kAll, 100, kAll);
  expect(100, 100, 100, kAll);
  expect(100, 4, 32, 29);      // 4 - 1 + 16 = 19
  expect(4096, 64, 80, 17);    // 64 - 1 + 16 = 79
  expect(4096, 256, 320, 65);  // 256 - 1 + 64 = 319
  expect(8192, 4096, 5120, 1025);
  expect(100, 90, 100, kAll);  // 90 - 1 + 32 = 121 is more than all of them
  expect(20, 4, 20, kAll);
}

struct Case {
  DType dtype;
  std::vector<int32_t> first, second;  // tokens that the two sequences bring, batch by batch
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << name_of(c.dtype) << ", " << testing::PrintToString(c.first) << " and " << testing::PrintToString(c.second);
}

class WindowCache : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kTokens = 100;

  void SetUp() override {
    config.max_position_embeddings = kTokens;
    const auto block = [&](const char* attention, const char* ffn) {
      return BlockChoice{parse_choice(Subblock::attention, attention, config),
                         parse_choice(Subblock::ffn, ffn, config)};
    };
    architecture = {block("window_4", "ffn_48"), block("gqa_1", "no_op"), block("window_21", "ffn_12"),
                    block("window_4", "no_op")};
    config.num_hidden_layers = std::ssize(architecture);
    model = make_model(config, architecture, GetParam().dtype);
    fill_random(model, 3);
    for (int32_t i = 0; i < 2 * kTokens; ++i) ids.push_back(i * i % 23);
  }

  // Hidden states of both sequences, one after the other, through a cache.
  std::vector<std::byte> infer(KvCache& cache) {
    const Case& c = GetParam();
    std::vector<std::byte> hidden[2];
    std::vector<int32_t> past = {0, 0};
    for (size_t i = 0; i < c.first.size(); ++i) {
      const std::vector<int32_t> lengths = {c.first[i], c.second[i]};
      const OwnSequences batch(config, lengths, past);
      std::vector<int32_t> tokens;
      for (size_t s = 0; s < 2; ++s)
        for (int32_t n = 0; n < lengths[s]; ++n) tokens.push_back(ids[s * kTokens + size_t(past[s] + n)]);
      ArenaScope scope(ctx.scratch);
      const Tensor x = ctx.scratch.tensor(batch.tokens(), config.hidden_size, model.dtype);
      model_infer(x, model, tokens, batch.view(), cache, ctx);
      const auto* bytes = static_cast<const std::byte*>(x.data);
      const int64_t row = x.cols * size_of(x.dtype);
      hidden[0].insert(hidden[0].end(), bytes, bytes + lengths[0] * row);
      hidden[1].insert(hidden[1].end(), bytes + lengths[0] * row, bytes + x.rows * row);
      for (size_t s = 0; s < 2; ++s) past[s] += lengths[s];
    }
    lengths_ = past;
    hidden[0].insert(hidden[0].end(), hidden[1].begin(), hidden[1].end());
    return hidden[0];
  }

  ModelConfig config = small_config();
  Architecture architecture;
  Model model;
  std::vector<int32_t> ids, lengths_;
  Context ctx{Context::Options{.threads = 2}};
  Arena arena{64 << 20};
};

// Oracles: the same through a cache that keeps every token of every layer, bit for bit; and the forward pass without a
// cache, within what another order of sums changes. A second run begins in a ring that is full.
TEST_P(WindowCache, GivesTheBitsOfACacheThatKeepsAll) {
  KvCache all(architecture, config, 2, 2, kTokens, 1, model.dtype, arena);
  for (const int32_t s : {0, 1}) all.set_pages(s, std::vector<int32_t>{1 - s});
  const std::vector<std::byte> expected = infer(all);
  KvCache rings(architecture, config, 2, kTokens, model.dtype, arena);
  for (int run = 0; run < 2; ++run) {
    const std::vector<std::byte> found = infer(rings);
    ASSERT_EQ(found.size(), expected.size());
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), expected.size()), 0) << "run " << run;
  }
  const OwnSequences batch(config, lengths_);
  std::vector<int32_t> tokens(ids.begin(), ids.begin() + lengths_[0]);
  tokens.insert(tokens.end(), ids.begin() + kTokens, ids.begin() + kTokens + lengths_[1]);
  const Tensor whole = arena.tensor(batch.tokens(), config.hidden_size, model.dtype);
  model_hidden(whole, model, tokens, batch.view(), ctx);
  dispatch(model.dtype, [&]<class T>() {
    const auto* found = reinterpret_cast<const T*>(expected.data());
    const double tolerance =
        model.dtype == DType::f32 ? 2e-5 : 0.1;  // bf16: 2^-9 of values up to 4, over ten roundings
    for (int64_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(float(found[i]), float(whole.as<T>()[i]), tolerance) << i;
  });
}

TEST_P(WindowCache, TakesWhatItSays) {
  Arena planner = Arena::planner();
  const KvCache cache(architecture, config, 2, kTokens, model.dtype, planner);
  EXPECT_EQ(planner.used_bytes(), KvCache::bytes(architecture, config, 2, kTokens, model.dtype));
  // 2 windows of 4 keep 32, one of 21 keeps 48 (21 - 1 + 16 = 36); the KV heads are 2 and 1 of 8 channels.
  EXPECT_EQ(planner.used_bytes(), 2 * (2 * 32 * 32 + 48 * 32 + 100 * 16) * size_of(model.dtype));
}

std::vector<int32_t> then_ones(std::vector<int32_t> first, size_t ones) {
  first.insert(first.end(), ones, 1);
  return first;
}

INSTANTIATE_TEST_SUITE_P(Batches, WindowCache,
                         testing::Values(Case{DType::f32, then_ones({}, 100), then_ones({}, 100)},
                                         Case{DType::f32, {100}, {100}},
                                         Case{DType::f32, then_ones({37, 33, 1}, 29), then_ones({1, 1, 64}, 29)},
                                         Case{DType::f32, {29, 30, 0, 41}, {0, 3, 90, 1}},
                                         Case{DType::bf16, then_ones({70}, 30), then_ones({31}, 30)}));

}  // namespace
}  // namespace tangram
