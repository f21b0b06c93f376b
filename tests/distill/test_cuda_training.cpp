// Training on a GPU, or the emulated one, against the CPU.

#include <gtest/gtest.h>

#include "distill/bld.h"
#include "distill/depth_first.h"
#include "distill/gkd.h"
#include "kernels/cuda_devices.h"
#include "kernels/transfer.h"
#include "tests/blocks/folder.h"
#include "tests/distill/small_batch.h"

namespace tangram {
namespace {

// AdamW's first steps are as long as the learning rate whatever the gradient is, so a difference of one rounding in a
// gradient near 0 may grow to it: losses are compared, which average that out.
constexpr double kSameLoss = 2e-4;

TEST(CudaTraining, EveryVariantHasTheLossesOfTheCpu) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const Model teacher = small_teacher();
  std::vector<Replacement> all;
  const auto add = [&](Subblock s, const char* name) {
    all.push_back({.first_layer = 1, .layer_count = 1, .attention = {}, .ffn = {}});
    all.back().of(s) = parse_choice(s, name, teacher.config);
  };
  for (const char* name : {"gqa_1", "linear", "window_3"}) add(Subblock::attention, name);
  for (const char* name : {"ffn_24", "linear"}) add(Subblock::ffn, name);
  add(Subblock::attention, "no_op");
  all.back().ffn = teacher_choice(Subblock::ffn, teacher.config);  // a pair

  const auto losses_on = [&](Device device) {
    Context cpu({.threads = 1}), ctx({.device = device, .threads = 1});
    std::vector<LayerStatistics> statistics;
    collect_statistics(
        teacher_in_memory(teacher), std::vector<Batch>{small_batch(100)},
        [&](int64_t, const LayerStatistics& s) { statistics.push_back(s); }, cpu);
    const Model there = move_model(teacher, device, ctx);
    BldOptions options;
    options.batch_tokens = kSmallBatchTokens;
    options.schedule.learning_rate_peak = 3e-3;
    options.schedule.steps = 3;
    BldTrainer trainer(
        there, all, options, [&](int64_t layer) { return statistics[size_t(layer)]; }, ctx);
    std::vector<float> losses;
    for (uint64_t step = 0; step < 3; ++step) {
      trainer.step(std::vector<Batch>{small_batch(step)});
      losses.insert(losses.end(), trainer.losses().begin(), trainer.losses().end());
    }
    return losses;
  };
  const std::vector<float> expected = losses_on(Device::cpu), found = losses_on(Device::cuda);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_GT(expected[i], 0);
    EXPECT_NEAR(found[i], expected[i], kSameLoss * double(expected[i]) + 1e-7) << all[i % all.size()].name();
  }
}

// Its boundaries pass between the GPU and the disk on streams and threads of their own.
TEST(CudaTraining, DepthFirstHasTheLossesOfBreadthFirst) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  constexpr int64_t kSteps = 4;
  Context ctx({.device = Device::cuda, .threads = 1});
  const Model teacher = move_model(small_teacher(), Device::cuda, ctx);
  std::vector<Replacement> all;
  for (int64_t layer = 0; layer < teacher.config.num_hidden_layers; ++layer)
    for (const auto& [s, name] : {std::pair{Subblock::attention, "gqa_1"}, {Subblock::ffn, "ffn_24"}}) {
      all.push_back({.first_layer = layer, .layer_count = 1, .attention = {}, .ffn = {}});
      all.back().of(s) = parse_choice(s, name, teacher.config);
    }
  BldOptions options;
  options.init = Init::random;
  options.batch_tokens = kSmallBatchTokens;
  options.schedule.learning_rate_peak = 3e-3;
  options.schedule.steps = kSteps;
  BldTrainer breadth(
      teacher, all, options, [](int64_t) { return LayerStatistics{}; }, ctx);
  std::vector<std::vector<float>> expected;
  for (uint64_t step = 0; step < kSteps; ++step) {
    breadth.step(std::vector<Batch>{small_batch(step)});
    expected.emplace_back(breadth.losses().begin(), breadth.losses().end());
  }
  const TestFolder folder;
  const DepthFirstRun run{teacher_in_memory(teacher), all, options, kSteps, folder.path};
  for (int64_t layer = 0; layer < teacher.config.num_hidden_layers; ++layer) {
    DepthFirstLayer students(run, layer, /*trained=*/true, ctx);
    students.start(LayerStatistics{});
    for (size_t step = 0; step < kSteps; ++step) {
      students.step(std::vector<Batch>{small_batch(step)});
      for (size_t i = 0; i < students.places().size(); ++i)
        EXPECT_EQ(students.losses()[i], expected[step][students.places()[i]]) << layer << ", step " << step;
    }
    students.finish();
  }
}

TEST(CudaTraining, HealingHasTheLossesOfTheCpu) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const Model teacher = small_teacher();
  const auto losses_on = [&](Device device) {
    Context ctx({.device = device, .threads = 1});
    const Model there = move_model(teacher, device, ctx);
    Model other = small_teacher();
    fill_random(other, 7);
    Model student = move_model(other, device, ctx);
    GkdOptions options;
    options.loss = {.cosine = 1, .kl = 1, .cross_entropy = 0.5};
    options.batch_tokens = kSmallBatchTokens;
    options.schedule.learning_rate_peak = 3e-3;
    options.schedule.steps = 3;
    GkdTrainer trainer(student, &there, options, ctx);
    std::vector<double> losses;
    for (uint64_t step = 0; step < 3; ++step) {
      const GkdLosses l = trainer.step(std::vector<Batch>{small_batch(step)});
      losses.insert(losses.end(), {l.cosine, l.kl, l.cross_entropy, l.gradient_norm});
    }
    return losses;
  };
  const std::vector<double> expected = losses_on(Device::cpu), found = losses_on(Device::cuda);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(found[i], expected[i], kSameLoss * expected[i]) << i;
}

TEST(CudaTraining, StatisticsAreThoseOfTheCpu) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const Model teacher = small_teacher();
  const auto sums_on = [&](Device device) {
    Context ctx({.device = device, .threads = 1});
    std::vector<double> sums;
    const Model there = move_model(teacher, device, ctx);
    collect_statistics(
        teacher_in_memory(there), std::vector<Batch>{small_batch(1), small_batch(2)},
        [&](int64_t, const LayerStatistics& s) {
          for (const Tensor& t : {s.attention.xx, s.attention.xy, s.ffn.xx, s.ffn.xy, s.ffn.hh, s.ffn.contribution})
            for (int64_t i = 0; i < t.size(); ++i) sums.push_back(double(t.as<float>()[i]));
        },
        ctx);
    return sums;
  };
  const std::vector<double> expected = sums_on(Device::cpu), found = sums_on(Device::cuda);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(found[i], expected[i], 1e-5 * std::abs(expected[i]) + 1e-6) << i;
}

}  // namespace
}  // namespace tangram
