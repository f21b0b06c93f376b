#include "distill/placement.h"

#include <gtest/gtest.h>

#include <functional>

#include "kernels/random.h"
#include "tests/distill/bld_setting.h"

namespace tangram {
namespace {

std::vector<BldUnit> random_units(uint64_t seed, int64_t layers, int64_t a_layer) {
  std::vector<BldUnit> units;
  for (int64_t l = 0; l < layers; ++l)
    for (int64_t u = 0; u < a_layer; ++u) {
      BldUnit unit{.layer = l, .input_layer = l, .places = {units.size()}};
      unit.flops = 1 + double(random_below(100, seed, 1, units.size()));
      if (u > 1 && l > 0) unit.input_layer = l - 1;
      units.push_back(unit);
    }
  return units;
}

double longest(std::span<const BldStage> stages, std::span<const double> speeds) {
  double most = 0;
  for (size_t s = 0; s < stages.size(); ++s) most = std::max(most, stages[s].flops / speeds[s]);
  return most;
}

// Oracle: every way to cut, a stage's cost added up from its definition.
double best_of_all_cuts(std::span<const BldUnit> units, double layer_flops, std::span<const double> speeds) {
  const auto cost = [&](size_t first, size_t last) {
    double flops = 0;
    int64_t begin = units[first].input_layer;
    for (size_t u = first; u < last; ++u) flops += units[u].flops, begin = std::min(begin, units[u].input_layer);
    return flops + layer_flops * double(units[last - 1].layer + 1 - begin);
  };
  std::function<double(size_t, size_t)> best = [&](size_t first, size_t stage) {
    if (stage + 1 == speeds.size()) return cost(first, units.size()) / speeds[stage];
    double least = 1e300;
    for (size_t last = first + 1; last + (speeds.size() - stage - 1) <= units.size(); ++last)
      least = std::min(least, std::max(cost(first, last) / speeds[stage], best(last, stage + 1)));
    return least;
  };
  return best(0, 0);
}

TEST(Placement, StagesAreCutAsWellAsCanBe) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::vector<BldUnit> units = random_units(seed, 5, 2);
    const std::vector<double> speeds = seed % 2 ? std::vector<double>{1, 1, 1} : std::vector<double>{2, 0.5, 1, 1};
    const std::vector<BldStage> stages = cut_stages(units, 10, speeds);
    ASSERT_EQ(stages.size(), speeds.size());
    EXPECT_DOUBLE_EQ(longest(stages, speeds), best_of_all_cuts(units, 10, speeds)) << seed;
  }
}

TEST(Placement, EveryUnitIsInOneStageThatRunsWhatItReads) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<BldUnit> units = random_units(seed, 6, 3);
    const std::vector<double> speeds(1 + seed % 7, 1.0);
    const std::vector<BldStage> stages = cut_stages(units, 7, speeds);
    size_t next = 0;
    for (size_t s = 0; s < stages.size(); ++s) {
      EXPECT_EQ(stages[s].first_unit, next);
      next += stages[s].unit_count;
      for (size_t u = stages[s].first_unit; u < next; ++u) {
        EXPECT_LE(stages[s].begin, units[u].input_layer);
        EXPECT_GT(stages[s].end, units[u].layer);
      }
      if (s > 0) {  // its input passes through the stage before it
        EXPECT_GE(stages[s].begin, stages[s - 1].begin);
        EXPECT_LE(stages[s].begin, stages[s - 1].end);
      }
    }
    EXPECT_EQ(next, units.size());
    EXPECT_EQ(stages[0].begin, 0);
  }
}

TEST(Placement, MoreStagesThanUnitsAreRefused) {
  const std::vector<BldUnit> units = random_units(1, 2, 1);
  EXPECT_THROW(cut_stages(units, 1, std::vector<double>(3, 1.0)), Error);
}

TEST(Placement, VariantsOfASubblockAreAUnitAndWholeBlocksAreAlone) {
  const BldSetting setting;
  std::vector<Replacement> all = setting.all_of_layer(1);  // 3 of attention, 3 FFNs
  all.push_back(setting.pair(1));
  all.push_back(setting.span(0, 2, "gqa_2", "ffn_48"));
  all.push_back(setting.plain(0, Subblock::ffn, "linear"));
  const std::vector<BldUnit> units = units_of(all);
  ASSERT_EQ(units.size(), 5u);
  EXPECT_EQ(units[0].places, (std::vector<size_t>{8}));
  EXPECT_EQ(units[1].places, (std::vector<size_t>{0, 1, 2}));
  EXPECT_EQ(units[2].places, (std::vector<size_t>{3, 4, 5}));
  EXPECT_EQ(units[3].places, (std::vector<size_t>{6}));
  EXPECT_EQ(units[4].places, (std::vector<size_t>{7}));
  EXPECT_EQ(units[4].layer, 1);
  EXPECT_EQ(units[4].input_layer, 0);
}

// Oracle: the whole trainer's own plan.
TEST(Placement, CostsOfUnitsAddUpToThoseOfTheTrainer) {
  const BldSetting setting;
  std::vector<Replacement> all;
  for (int64_t layer = 0; layer < 3; ++layer)
    for (const Replacement& r : setting.all_of_layer(layer)) all.push_back(r);
  all.push_back(setting.span(0, 2, "gqa_2", "ffn_48"));
  std::vector<BldUnit> units = units_of(all);
  const Batch batch = blank_batch(kSmallBatchTokens, 8);
  const ModelConfig& config = setting.teacher.config;
  const double layer_flops = add_costs(units, all, config, DType::f32, setting.options(), batch, Device::cpu);
  const BldPlan whole = BldTrainer::plan(teacher_in_memory(setting.teacher), all, setting.options(),
                                         whole_bld(all, config), batch, Device::cpu, 2);
  double flops = layer_flops * double(config.num_hidden_layers);
  int64_t state_bytes = 0, weight_bytes = 0;
  for (const BldUnit& unit : units)
    flops += unit.flops, state_bytes += unit.state_bytes, weight_bytes += unit.weight_bytes;
  EXPECT_DOUBLE_EQ(flops, whole.matmul_flops + whole.attention_flops);
  EXPECT_EQ(state_bytes, whole.state_bytes);
  EXPECT_EQ(weight_bytes, whole.weight_bytes);
}

}  // namespace
}  // namespace tangram
