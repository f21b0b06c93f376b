#include "blocks/reader_forms.h"

#include <gmock/gmock.h>

#include "blocks/gguf_model.h"
#include "tests/blocks/irregular_models.h"

namespace tangram {
namespace {

using ::testing::ElementsAre;

const std::vector<std::string> kAttention{"gqa_2", "gqa_1", "linear", "no_op"},
    kFfn{"ffn_48", "ffn_7", "linear", "no_op"};

// Nothing of what a reader gets wrong is left.
void expect_readable(const Architecture& architecture, const ReaderForms& reader) {
  ASSERT_FALSE(architecture.empty());
  for (size_t l = 0; l < architecture.size(); ++l) {
    const auto& [attention, ffn] = architecture[l];
    EXPECT_TRUE(reader.linear_attention || !attention.is("linear")) << l;
    EXPECT_TRUE(reader.empty_blocks || !attention.is("no_op") || !ffn.is("no_op")) << l;
    EXPECT_TRUE(reader.attention_alone || attention.is("no_op") || !ffn.is("no_op")) << l;
    EXPECT_TRUE(reader.ffn_alone_first || l > 0 || !attention.is("no_op"));
    EXPECT_TRUE(!ffn.is("ffn") || ffn.size % reader.width_multiple == 0) << l;
  }
}

// Padding changes sums by zeros only, but may change the order in which a product adds: 1e-6 of the largest logit.
void expect_equal_forms(const ReaderForms& reader) {
  const ModelConfig config = small_config();
  uint64_t seed = 0;
  for (const Architecture& architecture : irregular_architectures(config, kAttention, kFfn)) {
    const Model model = random_model(config, architecture, DType::f32, ++seed);
    const FormPlan plan = plan_forms(architecture, model.config, reader);
    const Model rewritten = apply_forms(model, plan);
    EXPECT_EQ(rewritten.architecture(), plan.architecture());
    expect_readable(rewritten.architecture(), reader);
    EXPECT_EQ(plan.changes.empty(), rewritten.architecture() == architecture);
    ASSERT_LE(relative_difference(logits_of(model), logits_of(rewritten)), plan.changes.empty() ? 0 : 1e-6)
        << "seed " << seed;
  }
}

TEST(ReaderForms, OfGgufComputeTheSame) { expect_equal_forms(kGgufForms); }

TEST(ReaderForms, WithoutLinearAttentionComputeTheSame) {
  expect_equal_forms({.linear_attention = false, .ffn_alone_first = false, .idle_width = 16, .width_multiple = 16});
}

TEST(ReaderForms, ThatAreAllReadAreTheModelsOwn) { expect_equal_forms({}); }

TEST(ReaderForms, WhatIsChangedIsNamed) {
  const ModelConfig config = small_config();
  const auto block = [&](const char* a, const char* f) {
    return BlockChoice{parse_choice(Subblock::attention, a, config), parse_choice(Subblock::ffn, f, config)};
  };
  const FormPlan plan = plan_forms({block("no_op", "ffn_7"), block("gqa_1", "no_op"), block("no_op", "no_op"),
                                    block("no_op", "ffn_48"), block("gqa_2", "no_op")},
                                   config, kGgufForms);
  std::vector<std::string> changes;
  for (const FormChange& c : plan.changes) changes.push_back(fmt::format("{}: {}", c.layer, c.text));
  EXPECT_THAT(changes, ElementsAre("2: empty, and left out", "1: attention without an FFN, joined with that of layer 3",
                                   "4: attention without an FFN, beside an idle one",
                                   "0: the first block, without attention, beside an idle one"));
  ASSERT_EQ(plan.blocks.size(), 3u);
  EXPECT_EQ(plan.config.num_hidden_layers, 3);
  EXPECT_EQ(plan.blocks[1].attention.choice.name() + plan.blocks[1].ffn.choice.name(), "gqa_1ffn_48");
}

}  // namespace
}  // namespace tangram
