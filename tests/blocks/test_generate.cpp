#include "blocks/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/random.h"
#include "tests/blocks/folder.h"
#include "tests/own_sequences.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;

// One layer of each way to keep a cache.
Model irregular_model() {
  const ModelConfig config = small_config();
  const auto block = [&](const char* attention, const char* ffn) {
    return BlockChoice{parse_choice(Subblock::attention, attention, config), parse_choice(Subblock::ffn, ffn, config)};
  };
  const Model model =
      make_model(config, {block("gqa_1", "ffn_48"), block("window_3", "no_op"), block("linear", "ffn_12")}, DType::f32);
  fill_random(model, 3);
  return model;
}

struct GenerateTest : testing::Test {
  Model model = irregular_model();
  Context ctx{Context::Options{.threads = 2}};

  GenerateResult run(std::vector<int32_t>& out, const std::vector<int32_t>& prompt, const GenerateOptions& options) {
    out.clear();
    return generate(
        model, prompt, options, [&](int32_t id) { out.push_back(id); }, ctx);
  }

  // Logits behind all of `tokens`, from a whole forward pass without a cache.
  std::vector<float> logits_behind(const std::vector<int32_t>& tokens) {
    const OwnSequences batch(model.config, std::vector<int32_t>{int32_t(tokens.size())});
    ArenaScope scope(ctx.scratch);
    const Tensor hidden = ctx.scratch.tensor(batch.tokens(), model.config.hidden_size, model.dtype);
    model_hidden(hidden, model, tokens, batch.view(), ctx);
    std::vector<float> logits(size_t(model.config.vocab_size));
    model_logits(view_of(logits.data(), 1, model.config.vocab_size), model, hidden.row_range(hidden.rows - 1, 1), ctx);
    return logits;
  }
};

const std::vector<int32_t> kPrompt{3, 1, 22, 7, 7};
GenerateOptions greedy(int64_t max_tokens) {
  return {.max_tokens = max_tokens, .sampling = {.temperature = 0}, .stop = {}};
}

TEST_F(GenerateTest, GreedyTokensAreThoseOfWholeForwardPasses) {
  std::vector<int32_t> out, tokens = kPrompt, expected;
  for (int i = 0; i < 12; ++i) {
    const std::vector<float> logits = logits_behind(tokens);
    expected.push_back(int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    tokens.push_back(expected.back());
  }
  const GenerateResult result = run(out, kPrompt, greedy(12));
  EXPECT_THAT(out, ElementsAreArray(expected));
  EXPECT_EQ(result.tokens, 12);
  EXPECT_EQ(result.decode_steps, 11);  // the first token comes from the prefill
  EXPECT_FALSE(result.stopped);
}

TEST_F(GenerateTest, EndsBeforeAStopToken) {
  std::vector<int32_t> all, out;
  run(all, kPrompt, greedy(12));
  const auto place = std::find_if(all.begin() + 1, all.end(), [&](int32_t id) { return id != all[0]; });
  ASSERT_NE(place, all.end());
  GenerateOptions options = greedy(12);
  options.stop = {int32_t(model.config.vocab_size - 1) == *place ? 0 : *place, *place};
  const GenerateResult result = run(out, kPrompt, options);
  EXPECT_TRUE(result.stopped);
  EXPECT_THAT(out, ElementsAreArray(all.begin(), std::find(all.begin(), all.end(), *place)));
}

TEST_F(GenerateTest, EndsWhereThePositionsDo) {
  std::vector<int32_t> out;
  EXPECT_EQ(run(out, kPrompt, greedy(1000)).tokens, model.config.max_position_embeddings - std::ssize(kPrompt));
  EXPECT_THAT(message_of([&] { run(out, std::vector<int32_t>(64, 1), greedy(1)); }),
              HasSubstr("the prompt has 64 tokens; the model has positions for 64"));
}

TEST_F(GenerateTest, ASeedGivesOneText) {
  std::vector<int32_t> first, again, other;
  GenerateOptions options{.max_tokens = 30, .sampling = {}, .seed = 5, .stop = {}};
  run(first, kPrompt, options);
  run(again, kPrompt, options);
  options.seed = 6;
  run(other, kPrompt, options);
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
}

TEST_F(GenerateTest, RefusesBadPrompts) {
  std::vector<int32_t> out;
  EXPECT_THAT(message_of([&] { run(out, {}, greedy(1)); }), HasSubstr("no tokens"));
  EXPECT_THAT(message_of([&] { run(out, {1, 23}, greedy(1)); }), HasSubstr("the vocabulary has 23"));
}

// The oracle is a forward pass without a cache; the tolerance is that of decode against forward in f32.
TEST_F(GenerateTest, PrefillInPartsIsTheWholeForwardPass) {
  constexpr int64_t S = 3, T = 11;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < S * T; ++i) ids.push_back(int32_t(random_below(23, 1, 0, uint64_t(i))));
  const OwnSequences batch(model.config, std::vector<int32_t>(S, T));
  const Tensor whole = ctx.scratch.tensor(S * T, model.config.hidden_size, DType::f32);
  model_hidden(whole, model, ids, batch.view(), ctx);
  for (int64_t at_once : {1, 12, 100}) {
    ContiguousCache memory = make_cache(model, S, T);
    std::vector<bool> seen(S * T);
    prefill(
        model, view_of(ids.data(), S, T), memory.cache, at_once,
        [&](int64_t first, int64_t count, Tensor hidden) {
          ASSERT_EQ(hidden.rows, S * count);
          EXPECT_LE(hidden.rows, std::max(at_once, S));
          for (int64_t s = 0; s < S; ++s)
            for (int64_t i = 0; i < count; ++i) {
              seen[size_t(s * T + first + i)] = true;
              for (int64_t h = 0; h < hidden.cols; ++h)
                ASSERT_NEAR(hidden.row<float>(s * count + i)[h], whole.row<float>(s * T + first + i)[h], 2e-5);
            }
        },
        ctx);
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), S * T) << at_once;
  }
}

}  // namespace
}  // namespace tangram
