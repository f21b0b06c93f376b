// Replace-one scoring and measuring on a GPU, or the emulated one.

#include <gtest/gtest.h>

#include "kernels/cuda_devices.h"
#include "kernels/random.h"
#include "puzzle/measure.h"
#include "puzzle/replace_one.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

TEST(CudaScoring, MetricsAreThoseOfTheCpu) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const ModelConfig config = small_config();
  const Model teacher = make_model(config, teacher_architecture(config), DType::f32);
  fill_random(teacher, 3);
  const Model other = make_model(config, teacher_architecture(config), DType::f32);
  fill_random(other, 4);
  const std::vector<int32_t> tokens{1, 5, 18, 5, 0, 7, 2, 11}, targets{5, 18, 5, 0, 7, 2, 11, -1}, lengths{4, 4};
  const auto metrics_on = [&](Device device) {
    Context ctx({.device = device, .threads = 1});
    const Model there = move_model(teacher, device, ctx);
    ReplaceOneScorer scorer(there, 8, ctx);
    scorer.start_batch({tokens, targets, lengths, 4});
    std::vector<double> all;
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      LibraryEntry entry{.replacement = {.first_layer = layer, .layer_count = 1, .attention = {}, .ffn = {}},
                         .attention = {},
                         .ffn = other.blocks[size_t(layer)].ffn,
                         .memory = {}};
      entry.replacement.ffn = entry.ffn->choice;
      for (const MetricValues& values : scorer.score(move_entry(entry, config, ctx)))
        all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  const std::vector<double> expected = metrics_on(Device::cpu), found = metrics_on(Device::cuda);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4) << i;
}

TEST(CudaScoring, SubblocksAreMeasured) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const ModelConfig config = small_config();
  Context ctx({.device = Device::cuda, .threads = 1});
  const Scenario scenario{
      .name = "s", .input_tokens = 4, .output_tokens = 2, .concurrency = 1, .precision = Precision::f32};
  MeasureOptions options;
  options.repeats = 1;
  for (const auto& [subblock, name] : {std::pair{Subblock::attention, "gqa_1"}, {Subblock::ffn, "linear"}}) {
    const Runtime time = measure_subblock(parse_choice(subblock, name, config), config, scenario, options, ctx);
    EXPECT_GT(time.prefill_seconds, 0) << name;
    EXPECT_GT(time.decode_seconds, 0) << name;
  }
}

}  // namespace
}  // namespace tangram
