#include "puzzle/table_costs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "puzzle/example_scores.h"
#include "puzzle/limits.h"
#include "puzzle/quiet_timer.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

Hardware hardware() {
  Hardware h{.name = "h", .memory_bytes = 1e9, .memory_bandwidth = 1e11};
  h.flops = {5e11, 1e12, 0}, h.launch_seconds = 1e-7, h.residual = 0.125;
  return h;
}

ScoreTable scored() {
  const ModelConfig c = small_config();
  const std::vector<Choice> attention = {parse_choice(Subblock::attention, "gqa_1", c),
                                         parse_choice(Subblock::attention, "no_op", c)};
  return example_scores(c, attention, std::vector<Choice>{parse_choice(Subblock::ffn, "ffn_16", c)}, 1);
}

const Scenario kLoad{.name = "chat", .input_tokens = 8, .output_tokens = 4, .concurrency = 2};

// Oracle: the whole model by the roofline model itself, and by counting its bytes.
TEST(TableCosts, ModelledRowsAddUpToTheTeacher) {
  ScoreTable table = scored();
  EXPECT_TRUE(model_costs(table, kLoad, small_config(), hardware(), "h 1"));
  check_table(table, "table");
  const Architecture teacher = teacher_architecture(small_config());
  const ModelledTime whole = model_whole(teacher, small_config(), kLoad, hardware());
  const std::vector<int64_t> rows = teacher_rows(table);
  EXPECT_NEAR(figure(table, rows, Quantity::time_to_first_token, 0), whole.prefill.total(), 1e-15);
  EXPECT_NEAR(figure(table, rows, Quantity::time_per_output_token, 0), whole.decode.total() / 3, 1e-15);
  EXPECT_NEAR(figure(table, rows, Quantity::memory, 0), model_memory(teacher, small_config(), kLoad, hardware()), 1e-6);
  EXPECT_EQ(figure(table, rows, Quantity::parameters, 0), model_parameters(teacher, small_config()));
  EXPECT_NEAR(figure_error(table, rows, Quantity::latency, 0), 0.125, 1e-12);
}

TEST(TableCosts, WhatIsKnownIsNotModelledAgain) {
  ScoreTable table = scored();
  EXPECT_TRUE(model_costs(table, kLoad, small_config(), hardware(), "h 1"));
  EXPECT_FALSE(model_costs(table, kLoad, small_config(), hardware(), "h 1"));
  table.rows[2].costs[0].decode_seconds = kMissing;
  EXPECT_TRUE(model_costs(table, kLoad, small_config(), hardware(), "h 1"));
  EXPECT_TRUE(model_costs(table, kLoad, small_config(), hardware(), "h 2")) << "another source";
}

TEST(TableCosts, CorrectionsByHand) {
  CostSource source;
  const std::vector<Runtime> sums = {{1, 2}, {2, 1}}, wholes = {{1.21, 4}, {2, 2}};
  learn_correction(source, sums, wholes);
  EXPECT_NEAR(source.prefill_factor, 1.1, 1e-12);  // the geometric mean of 1.21 and 1
  EXPECT_NEAR(source.prefill_error, 0.1, 1e-12);
  EXPECT_NEAR(source.decode_factor, 2, 1e-12);
  EXPECT_NEAR(source.decode_error, 0.01, 1e-12);  // the least that is claimed
}

TEST(TableCosts, SamplesDifferFromLayerToLayer) {
  const ScoreTable table = scored();
  const std::vector<Architecture> samples = sample_architectures(table, small_config());
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0], teacher_architecture(small_config()));
  EXPECT_EQ(samples[1][0].attention.name(), "gqa_2");
  EXPECT_EQ(samples[1][1].attention.name(), "gqa_1");
  EXPECT_EQ(samples[1][2].attention.name(), "no_op");
  EXPECT_EQ(samples[1][1].ffn.name(), "ffn_16");
}

// A measured whole has no oracle but its parts: beside their sum it is of the same size, and the corrected sum of the
// models it was learnt from is within its error bar.
TEST(TableCosts, MeasuredWholesAreNearTheSumOfTheirParts) {
  ModelConfig c = small_config();
  c.hidden_size = 256, c.intermediate_size = 1024, c.num_attention_heads = 8, c.num_key_value_heads = 4,
  c.head_dim = 32;
  c.vocab_size = 500, c.num_hidden_layers = 4;
  const std::vector<Choice> attention = {parse_choice(Subblock::attention, "gqa_1", c)},
                            ffn = {parse_choice(Subblock::ffn, "ffn_256", c), parse_choice(Subblock::ffn, "no_op", c)};
  ScoreTable table = example_scores(c, attention, ffn, 1);
  Scenario s = kLoad;
  s.precision = Precision::f32, s.input_tokens = 64;
  const size_t index = add_scenario(table, s);
  Context ctx(Context::Options{.threads = 1});
  const MeasureOptions options;
  QuietTimer timer(ctx);
  std::vector<QuietTimer::Timing> timings;
  const auto time = [&](const std::function<Runtime()>& measure) {
    return timings.emplace_back(timer.time(measure)).runtime;
  };
  std::map<std::string, Runtime> known;
  const auto time_of = [&](const Choice& choice) {
    if (!known.contains(choice.name()))
      known[choice.name()] = time([&] { return measure_subblock(choice, c, s, options, ctx); });
    return known[choice.name()];
  };
  for (TableRow& row : table.rows) fill_costs(row, table, index, c, time_of);
  fill_outside(table, index, c, time([&] { return measure_outside(c, s, options, ctx); }));
  fill_workspace(table, index, c, [&](const Choice& choice) { return planned_workspace(choice, c, s, options, ctx); });
  std::vector<Runtime> sums, wholes;
  for (const Architecture& sample : sample_architectures(table, c)) {
    sums.push_back(sum_of_parts(sample, table, index));
    wholes.push_back(time([&] { return measure_whole(sample, c, s, options, ctx).runtime; }));
  }
  const bool is_quiet =
      std::none_of(timings.begin(), timings.end(), [&](auto& one) { return timer.is_disturbed(one); });
  for (size_t i = 0; is_quiet && i < sums.size(); ++i) {  // beside other work any time may come out many times too long
    EXPECT_GT(wholes[i].prefill_seconds, 0.2 * sums[i].prefill_seconds);
    EXPECT_LT(wholes[i].prefill_seconds, 5 * sums[i].prefill_seconds);
    EXPECT_GT(wholes[i].decode_seconds, 0.2 * sums[i].decode_seconds);
    EXPECT_LT(wholes[i].decode_seconds, 5 * sums[i].decode_seconds);
  }
  CostSource& source = table.sources[index];
  learn_correction(source, sums, wholes);
  for (size_t i = 0; i < sums.size(); ++i) {
    const double corrected = source.decode_factor * sums[i].decode_seconds;
    EXPECT_LE(std::abs(std::log(wholes[i].decode_seconds / corrected)), std::log1p(source.decode_error) + 1e-12);
  }
  EXPECT_DOUBLE_EQ(figure(table, teacher_rows(table), Quantity::time_to_first_token, index),
                   source.prefill_factor * sums[0].prefill_seconds);
}

TEST(ExampleScores, HaveTheStructureOfPublishedOnes) {
  ModelConfig c = small_config();
  c.hidden_size = 512, c.intermediate_size = 28672, c.num_hidden_layers = 80, c.num_attention_heads = 64;
  c.num_key_value_heads = 8, c.head_dim = 8;
  const ScoreTable table = example_scores(c, published_attention(c), published_ffn(c), 1);
  check_table(table, "table");
  EXPECT_EQ(table.rows.size(), 80u * (6 + 9)) << "the paper's 6 attentions and 9 FFNs a layer";
  double largest = 0;
  std::vector<double> halves;
  int64_t not_monotone = 0;
  std::map<int64_t, double> wide;
  for (const TableRow& row : table.rows) {
    if (row.ffn == "ffn_14336") halves.push_back(row.values[0]);
    if (row.ffn == "ffn_24832") wide[row.first_layer] = row.values[0];
    if (row.ffn == "ffn_21504") not_monotone += row.values[0] < wide[row.first_layer];
    largest = std::max(largest, row.values[0]);
  }
  std::sort(halves.begin(), halves.end());
  EXPECT_GT(halves.back() / halves[40], 100) << "some layers are two to three orders of magnitude worse";
  EXPECT_LT(halves[75] / halves[40], 100) << "and few";
  EXPECT_LT(not_monotone, 40);
}

}  // namespace
}  // namespace tangram
