// Replace-one scoring and measuring on a GPU, or the emulated one.

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/cuda_devices.h"
#include "kernels/random.h"
#include "kernels/transfer.h"
#include "puzzle/entry_stream.h"
#include "puzzle/measure.h"
#include "puzzle/replace_one.h"
#include "tests/blocks/folder.h"
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
      Arena memory(entry_bytes(entry.replacement, config, teacher.dtype), device);
      for (const MetricValues& values : scorer.score(move_entry(entry, config, memory, ctx)))
        all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  const std::vector<double> expected = metrics_on(Device::cpu), found = metrics_on(Device::cuda);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4) << i;
}

// Round after round every entry comes, with the bits of its file, while the next is on its way.
TEST(CudaScoring, AStreamOfEntriesBringsTheLibraryInOrder) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const ModelConfig config = small_config();
  const Model teacher = small_teacher(DType::bf16);
  const TestFolder folder;
  std::vector<Replacement> replacements;
  std::vector<Model> written;  // own their weights
  for (const auto& [s, name] : {std::pair{Subblock::attention, "gqa_1"},
                                {Subblock::attention, "no_op"},
                                {Subblock::ffn, "linear"},
                                {Subblock::ffn, "ffn_24"}}) {
    Replacement& r =
        replacements.emplace_back(Replacement{.first_layer = 1, .layer_count = 1, .attention = {}, .ffn = {}});
    r.of(s) = parse_choice(s, name, config);
    Architecture architecture = teacher_architecture(config);
    architecture[1].of(s) = *r.of(s);
    fill_random(written.emplace_back(make_model(config, architecture, DType::bf16)), 10 + written.size());
    LibraryEntry entry{.replacement = r, .attention = {}, .ffn = {}, .memory = {}};
    entry.of(s) = written.back().blocks[1].of(s);
    if (needs_training(r, config)) save_entry(folder.path, entry, config);
  }
  Context ctx({.device = Device::cuda, .threads = 1});
  EntryStream entries(folder.path, replacements, teacher, ctx);
  for (size_t i = 0; i < 3 * replacements.size(); ++i) {
    const LibraryEntry& entry = entries.next();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the next one has come, too
    const Replacement& r = replacements[i % replacements.size()];
    ASSERT_TRUE(entry.replacement == r) << i;
    const Subblock s = r.attention ? Subblock::attention : Subblock::ffn;
    const SubblockWeights& expected = written[i % written.size()].blocks[1].of(s);
    ASSERT_EQ(entry.of(s)->params.size(), expected.params.size());
    for (size_t p = 0; p < expected.params.size(); ++p) {
      const HostView found(entry.of(s)->params[p].values, ctx);
      const Tensor values = expected.params[p].values;
      EXPECT_EQ(std::memcmp(found.tensor().data, values.data, size_t(values.bytes())), 0) << i << ", tensor " << p;
    }
  }
  std::filesystem::remove(library_path(folder.path, replacements[0]));
  EXPECT_THROW(for (size_t i = 0; i < 2 * replacements.size(); ++i) entries.next(), Error);
}

TEST(CudaScoring, SubblocksAreMeasured) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const ModelConfig config = small_config();
  Context ctx({.device = Device::cuda, .threads = 1});
  const Scenario scenario{
      .name = "s", .input_tokens = 4, .output_tokens = 2, .concurrency = 1, .precision = Precision::f32};
  MeasureOptions options;
  options.repeats = 1, options.seconds_at_least = 0;
  for (const auto& [subblock, name] : {std::pair{Subblock::attention, "gqa_1"}, {Subblock::ffn, "linear"}}) {
    const Runtime time = measure_subblock(parse_choice(subblock, name, config), config, scenario, options, ctx);
    EXPECT_GT(time.prefill_seconds, 0) << name;
    EXPECT_GT(time.decode_seconds, 0) << name;
  }
  const Runtime whole = measure_whole(teacher_architecture(config), config, scenario, options, ctx).runtime;
  EXPECT_GT(whole.prefill_seconds, 0);
  EXPECT_GT(whole.decode_seconds, 0);
}

}  // namespace
}  // namespace tangram
