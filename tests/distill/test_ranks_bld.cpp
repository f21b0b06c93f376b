#include <gtest/gtest.h>

#include <numeric>

#include "nas/distill_grid.h"
#include "tests/distill/bld_setting.h"
#include "tests/kernels/test_ranks.h"

namespace tangram {
namespace {

constexpr int64_t kMicroBatches = 4, kSteps = 5;

Batch batch_of(int64_t step, int64_t micro_batch) {
  return small_batch(uint64_t(step * kMicroBatches + micro_batch) % 8);
}

std::vector<Replacement> everything(const BldSetting& setting) {
  std::vector<Replacement> all;
  for (int64_t layer = 0; layer < 3; ++layer) {
    for (const Replacement& r : setting.all_of_layer(layer)) all.push_back(r);
    all.push_back(setting.pair(layer));
  }
  all.push_back(setting.span(0, 2, "gqa_2", "ffn_48"));
  all.push_back(setting.span(1, 2, "gqa_1", "linear"));
  all.push_back(setting.span(0, 3, "linear", "ffn_24"));
  return all;
}

struct RanksCase {
  int64_t stages, replicas, waves, shards;
  DType dtype = DType::f32;
};

DistillGrid grid_of(const RanksCase& c, std::span<const Replacement> all, const BldSetting& setting,
                    const BldOptions& options) {
  DistillGrid grid;
  grid.replicas = c.replicas;
  grid.units = units_of(all);
  const Batch batch = blank_batch(kSmallBatchTokens, 8);
  grid.layer_flops = add_costs(grid.units, all, setting.teacher.config, c.dtype, options, batch, Device::cpu);
  grid.stages = cut_stages(grid.units, grid.layer_flops, std::vector<double>(size_t(c.stages), 1.0));
  grid.speeds.assign(size_t(c.stages), 1.0);
  std::vector<size_t> units(grid.units.size());
  std::iota(units.begin(), units.end(), size_t{0});
  add_waves(grid, units, size_t(c.waves));
  return grid;
}

/// Trains a rank's part, wave after wave, and compares what it owns, bit for bit, with the same trained in one process.
void compare(const RanksCase& c) {
  Communicator& world = tangram::world();
  if (c.stages * c.replicas != world.size())
    GTEST_SKIP() << c.stages << " x " << c.replicas << " ranks, there are " << world.size();
  BldSetting setting;
  const Model teacher = copy_model(setting.teacher, c.dtype);
  const std::vector<Replacement> all = everything(setting);
  BldOptions options = setting.options();
  options.micro_batches = kMicroBatches;
  options.shards = c.shards;
  const auto statistics = [&](int64_t layer) { return setting.statistics[size_t(layer)]; };

  BldTrainer alone(teacher, all, options, statistics, setting.ctx);
  std::vector<std::vector<float>> losses;
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<Batch> batches;
    for (int64_t m = 0; m < kMicroBatches; ++m) batches.push_back(batch_of(step, m));
    alone.step(batches);
    losses.emplace_back(alone.losses().begin(), alone.losses().end());
  }

  const DistillGrid grid = grid_of(c, all, setting, options);
  Communicator replicas = world.split(world.rank() / int(c.replicas), world.rank());
  std::vector<bool> owned(all.size());
  for (size_t w = 0; w < grid.waves.size(); ++w) {
    const BldPart part = part_of(grid, w, world, replicas);
    BldTrainer trainer(teacher_in_memory(teacher), all, options, part, statistics, setting.ctx);
    const int64_t mine = kMicroBatches / c.replicas, first = part.replicas.index * mine;
    for (int64_t step = 0; step < kSteps; ++step) {
      std::vector<Batch> batches;
      for (int64_t m = first; m < first + mine; ++m) batches.push_back(batch_of(step, m));
      trainer.step(batches, step + 1 == kSteps);
      for (const size_t place : part.places) EXPECT_EQ(trainer.losses()[place], losses[size_t(step)][place]) << place;
    }
    for (const size_t place : part.places) {
      EXPECT_EQ(largest_difference(trainer.entry(place), alone.entry(place)), 0) << all[place].name();
      if (trainer.owns(place)) owned[place] = true;
    }
  }
  // Every replacement has one owner among all ranks.
  std::string marks;
  for (const bool own : owned) marks += own ? '1' : '0';
  std::vector<int> owners(all.size());
  for (const std::string& of_rank : world.gather(marks))
    for (size_t i = 0; i < all.size(); ++i) owners[i] += of_rank[i] == '1';
  EXPECT_EQ(owners, std::vector<int>(all.size(), 1));
}

class RanksBld : public testing::TestWithParam<RanksCase> {};
TEST_P(RanksBld, TrainsTheSameBitsAsOneProcess) { compare(GetParam()); }

INSTANTIATE_TEST_SUITE_P(, RanksBld,
                         testing::Values(RanksCase{1, 1, 1, 4}, RanksCase{1, 1, 2, 1}, RanksCase{2, 1, 1, 1},
                                         RanksCase{2, 1, 1, 2}, RanksCase{2, 1, 2, 1}, RanksCase{1, 2, 1, 2},
                                         RanksCase{1, 2, 1, 4}, RanksCase{1, 2, 2, 4}, RanksCase{3, 1, 1, 1},
                                         RanksCase{4, 1, 1, 4}, RanksCase{2, 2, 1, 2}, RanksCase{2, 2, 2, 4},
                                         RanksCase{1, 4, 1, 4}, RanksCase{2, 2, 1, 2, DType::bf16}),
                         [](const auto& test) {
                           const RanksCase& c = test.param;
                           return fmt::format("{}x{}_ranks_{}_waves_{}_shards_{}", c.stages, c.replicas, c.waves,
                                              c.shards, name_of(c.dtype));
                         });

}  // namespace
}  // namespace tangram
