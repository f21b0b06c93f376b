#include "distill/bld.h"

#include <gtest/gtest.h>

#include "tests/distill/bld_setting.h"

namespace tangram {
namespace {

void train(BldTrainer& trainer, int64_t steps, int64_t micro_batches = 1) {
  for (int64_t i = 0; i < steps; ++i) {
    std::vector<Batch> batches;
    for (int64_t m = 0; m < micro_batches; ++m)
      batches.push_back(small_batch(uint64_t((trainer.steps_done() * micro_batches + m) % 8)));
    trainer.step(batches);
  }
}

TEST(Bld, EveryLossFalls) {
  BldSetting setting;
  std::vector<Replacement> all;
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const Replacement& r : setting.all_of_layer(layer)) all.push_back(r);
    all.push_back(setting.pair(layer));
  }
  for (int64_t first = 0; first < 2; ++first) all.push_back(setting.span(first, 2, "gqa_2", "ffn_48"));
  all.push_back(setting.span(0, 3, "linear", "ffn_24"));
  BldTrainer trainer = setting.trainer(all, setting.options());
  train(trainer, 8);
  const std::vector<float> first(trainer.losses().begin(), trainer.losses().end());
  train(trainer, 72);
  for (size_t i = 0; i < all.size(); ++i)
    EXPECT_LT(trainer.losses()[i], first[i]) << all[i].first_layer << " " << all[i].name();
}

// Oracle: each variant trained by itself. The products have other shapes, so only rounding may differ.
TEST(Bld, VariantsTrainedTogetherEqualVariantsTrainedAlone) {
  BldSetting setting;
  const std::vector<Replacement> all = setting.all_of_layer(1);
  BldTrainer together = setting.trainer(all, setting.options());
  train(together, 5);
  for (size_t i = 0; i < all.size(); ++i) {
    BldTrainer alone = setting.trainer({all[i]}, setting.options());
    train(alone, 5);
    EXPECT_NEAR(alone.losses()[0], together.losses()[i], 1e-4 * together.losses()[i]) << all[i].name();
    // Adam divides by the gradient's own size, so a rounding error in a tiny gradient moves a weight by a part of the
    // learning rate: 5 steps of 3e-3 are the most that it can be.
    EXPECT_LT(largest_difference(alone.entry(0), together.entry(i)), 3e-3) << all[i].name();
  }
}

// Oracle: the layers run one by one. A span that starts as a copy of its last layer has, in its first step, the loss of
// that layer in place of all of them.
TEST(Bld, ASpanMimicsItsLayersTogether) {
  BldSetting setting;
  Context& ctx = setting.ctx;
  const std::vector<Replacement> spans{setting.span(0, 2, "gqa_2", "ffn_48"), setting.span(1, 2, "gqa_2", "ffn_48"),
                                       setting.span(0, 3, "gqa_2", "ffn_48")};
  BldTrainer trainer = setting.trainer(spans, setting.options());
  const Batch batch = small_batch(3);
  trainer.step(std::span(&batch, 1));
  const ModelConfig& config = setting.teacher.config;
  const SequenceBatch sequences(config, batch.lengths, {}, ctx.scratch, ctx);
  const auto stream_behind = [&](Tensor x, const std::vector<int64_t>& layers) {
    embed(x, setting.teacher, batch.tokens, ctx);
    for (const int64_t l : layers) block_forward(x, setting.teacher.blocks[size_t(l)], config, sequences.view(), ctx);
  };
  for (size_t i = 0; i < spans.size(); ++i) {
    const Tensor student = ctx.scratch.tensor(kSmallBatchTokens, config.hidden_size, DType::f32);
    const Tensor teacher = ctx.scratch.tensor(kSmallBatchTokens, config.hidden_size, DType::f32);
    std::vector<int64_t> layers, of_student;
    for (int64_t l = 0; l <= spans[i].last_layer(); ++l) {
      layers.push_back(l);
      if (l < spans[i].first_layer || l == spans[i].last_layer()) of_student.push_back(l);
    }
    stream_behind(student, of_student), stream_behind(teacher, layers);
    double error = 0, norm = 0;
    for (int64_t e = 0; e < student.size(); ++e) {
      const double s = double(student.as<float>()[e]), t = double(teacher.as<float>()[e]);
      error += (s - t) * (s - t), norm += t * t;
    }
    EXPECT_NEAR(trainer.losses()[i], error / norm, 1e-5 * error / norm) << spans[i].layers();
    EXPECT_GT(error, 1e-3 * norm) << "a span that changes nothing tests nothing";
  }
}

// The variants of a subblock share one product forward and one backward; the rest are the teacher's and each variant's
// own matrix to the residual stream (forward, to its input, to its weight).
TEST(Bld, VariantsShareTheProductWithTheirInput) {
  BldSetting setting;
  const auto calls_of_a_step = [&](const std::vector<Replacement>& replacements) {
    BldTrainer trainer = setting.trainer(replacements, setting.options());
    train(trainer, 1);
    const int64_t before = setting.ctx.matmul_calls;
    train(trainer, 1);
    return setting.ctx.matmul_calls - before;
  };
  const int64_t teacher_alone = calls_of_a_step({});
  const auto ffn = [&](const char* name) { return setting.plain(1, Subblock::ffn, name); };
  EXPECT_EQ(calls_of_a_step({ffn("linear")}), teacher_alone + 2);
  EXPECT_EQ(calls_of_a_step({ffn("linear"), ffn("ffn_24")}), teacher_alone + 2 + 3);
  EXPECT_EQ(calls_of_a_step({ffn("linear"), ffn("ffn_24"), ffn("ffn_8")}), teacher_alone + 2 + 6);
}

TEST(Bld, ResumedRunEndsWithTheSameBytes) {
  BldSetting setting;
  std::vector<Replacement> all = setting.all_of_layer(2);
  all.push_back(setting.pair(0));
  BldTrainer whole = setting.trainer(all, setting.options());
  train(whole, 6);

  BldTrainer first = setting.trainer(all, setting.options());
  train(first, 3);
  BldTrainer second = setting.trainer(all, setting.options());
  const auto from = first.state(), to = second.state();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) copy(to[i].tensor, from[i].tensor);
  second.resume(first.steps_done());
  train(second, 3);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(largest_difference(whole.entry(i), second.entry(i)), 0);
}

// With beta1 = 0 and no clipping, moment 1 is the gradient: that of two micro-batches is the mean of the two.
TEST(Bld, MicroBatchesAverage) {
  BldSetting setting;
  BldOptions options = setting.options();
  options.optimiser.beta1 = 0, options.optimiser.gradient_clip = 0;
  std::vector<Replacement> all = setting.all_of_layer(0);
  all.push_back(setting.pair(0));
  const auto gradients = [&](const std::vector<Batch>& batches) {
    options.micro_batches = int64_t(batches.size());
    BldTrainer trainer = setting.trainer(all, options);
    trainer.step(batches);
    std::vector<float> g(trainer.losses().begin(), trainer.losses().end());
    for (const NamedTensor& t : trainer.state())
      if (t.name.ends_with("/moment1")) g.insert(g.end(), t.tensor.as<float>(), t.tensor.as<float>() + t.tensor.size());
    return g;
  };
  const Batch a = small_batch(1), b = small_batch(2);
  const std::vector<float> of_a = gradients({a}), of_b = gradients({b}), of_both = gradients({a, b});
  for (size_t i = 0; i < of_a.size(); ++i) {
    const double mean = (double(of_a[i]) + double(of_b[i])) / 2;
    ASSERT_NEAR(of_both[i], mean, 1e-5 * std::abs(mean) + 1e-7) << i;
  }
}

// Behind the FFN the block's error is the subblock's, in another unit: the same first loss but for the denominator.
TEST(Bld, BlockTargetMeasuresTheBlock) {
  BldSetting setting;
  BldOptions options = setting.options();
  options.target = BldTarget::block;
  const std::vector<Replacement> all = setting.all_of_layer(1);
  BldTrainer block = setting.trainer(all, options), subblock = setting.trainer(all, setting.options());
  train(block, 1), train(subblock, 1);
  const double ratio = block.losses()[3] / subblock.losses()[3];
  EXPECT_NEAR(block.losses()[4] / subblock.losses()[4], ratio, 1e-4 * ratio);
  EXPECT_NEAR(block.losses()[5] / subblock.losses()[5], ratio, 1e-4 * ratio);
  train(block, 60);
  EXPECT_LT(block.losses()[0], 1.0);
}

// The teacher's own attention reproduces the block exactly, so its loss through the frozen rest is 0.
TEST(Bld, BlockTargetOfTheTeachersOwnSubblockIsZero) {
  BldSetting setting;
  BldOptions options = setting.options();
  options.target = BldTarget::block;
  BldTrainer trainer = setting.trainer({setting.plain(1, Subblock::attention, "gqa_2")}, options);
  train(trainer, 1);
  EXPECT_LT(trainer.losses()[0], 1e-10);
}

TEST(Bld, LeastSquaresStartsBelowThePrunedStart) {
  BldSetting setting;
  const std::vector<Replacement> all{setting.plain(1, Subblock::attention, "linear"),
                                     setting.plain(1, Subblock::ffn, "linear"),
                                     setting.plain(1, Subblock::ffn, "ffn_24")};
  BldOptions options = setting.options();
  BldTrainer pruned = setting.trainer(all, options);
  options.init = Init::least_squares;
  BldTrainer solved = setting.trainer(all, options);
  // On the tokens that the statistics are of, the closed form is the optimum.
  const std::vector<Batch> batch{small_batch(100)};
  pruned.step(batch), solved.step(batch);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_LT(solved.losses()[i], pruned.losses()[i]) << all[i].name();
}

TEST(Bld, RefusesABatchOfAnotherSize) {
  BldSetting setting;
  BldTrainer trainer = setting.trainer(setting.all_of_layer(0), setting.options());
  Batch batch = small_batch(0);
  batch.tokens.pop_back(), batch.targets.pop_back(), --batch.lengths.back();
  EXPECT_THROW(trainer.step(std::vector<Batch>{batch}), Error);
}

}  // namespace
}  // namespace tangram
