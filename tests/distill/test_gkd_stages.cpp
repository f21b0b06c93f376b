#include "distill/gkd_stages.h"

#include "distill/placement.h"

#include <gtest/gtest.h>

#include <functional>

#include "kernels/random.h"
#include "nas/uptrain_grid.h"
#include "tests/distill/small_batch.h"

namespace tangram {
namespace {

GkdCosts random_costs(uint64_t seed, int64_t blocks) {
  const auto value = [&](uint64_t stream, int64_t b) { return double(random_below(100, seed, stream, uint64_t(b))); };
  GkdCosts costs{.forward = {}, .backward = {}, .teacher = {}, .head = 20 + value(4, 0)};
  for (int64_t b = 0; b < blocks; ++b) {
    costs.forward.push_back(value(1, b));
    costs.backward.push_back(2 * value(2, b));
    costs.teacher.push_back(1 + value(3, b));
  }
  return costs;
}

// Of blocks [begin, end) as one stage, by its definition.
double cost_of_stage(const GkdCosts& costs, int64_t begin, int64_t end) {
  const bool is_last = end == std::ssize(costs.forward);
  double flops = is_last ? costs.head : 0;
  for (auto b = size_t(begin); b < size_t(end); ++b)
    flops += (is_last ? 1 : 2) * costs.forward[b] + costs.backward[b] + costs.teacher[b];
  return flops;
}

// The longest time of a stage with the best of all ways to cut the blocks from `begin` on.
double best_of_all_cuts(const GkdCosts& costs, int64_t begin, std::span<const double> speeds) {
  const auto blocks = std::ssize(costs.forward), stages = std::ssize(speeds);
  if (stages == 1) return cost_of_stage(costs, begin, blocks) / speeds[0];
  double least = 1e300;
  for (int64_t end = begin + 1; end + stages - 1 <= blocks; ++end)
    least = std::min(
        least, std::max(cost_of_stage(costs, begin, end) / speeds[0], best_of_all_cuts(costs, end, speeds.subspan(1))));
  return least;
}

std::vector<double> random_speeds(uint64_t seed, int64_t count) {
  std::vector<double> speeds;
  for (int64_t r = 0; r < count; ++r) speeds.push_back(double(1 + random_below(4, seed, 7, uint64_t(r))) / 4);
  return speeds;
}

TEST(GkdStages, AreCutAsWellAsCanBe) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const GkdCosts costs = random_costs(seed, 9);
    for (const int64_t count : {1, 2, 4, 9}) {
      const std::vector<double> speeds =
          seed % 2 ? random_speeds(seed, count) : std::vector<double>(size_t(count), 1.0);
      const std::vector<GkdStage> stages = cut_student(costs, speeds);
      ASSERT_EQ(std::ssize(stages), count);
      int64_t next = 0;
      double longest = 0, sum = 0;
      for (const GkdStage& stage : stages) {
        EXPECT_EQ(stage.begin, next);
        EXPECT_DOUBLE_EQ(stage.flops, cost_of_stage(costs, stage.begin, stage.end));
        const double seconds = stage.flops / speeds[size_t(&stage - stages.data())];
        next = stage.end, longest = std::max(longest, seconds), sum += seconds;
      }
      EXPECT_EQ(next, 9);
      EXPECT_DOUBLE_EQ(longest, best_of_all_cuts(costs, 0, speeds)) << seed << ", " << count;
      EXPECT_DOUBLE_EQ(balance(stages, speeds), sum / double(count) / longest);
    }
    EXPECT_THROW(cut_student(costs, std::vector<double>(10, 1.0)), Error);
  }
}

// Oracle: the operations that a whole trainer counts, whose only stage computes nothing twice.
TEST(GkdStages, CostsAddUpToThoseOfATrainer) {
  ModelConfig config = small_config();
  const auto a = [&](const char* text) { return parse_choice(Subblock::attention, text, config); };
  const auto f = [&](const char* text) { return parse_choice(Subblock::ffn, text, config); };
  const Architecture blocks{{a("gqa_1"), f("ffn_8")}, {a("no_op"), f("linear")}};
  const Batch batch = small_batch(1);
  GkdOptions options;
  options.batch_tokens = kSmallBatchTokens;
  options.teacher_layers = {0, 2};
  const GkdCosts costs = gkd_costs(blocks, config, DType::f32, options, batch, Device::cpu);

  Context planning({.planning = true});
  Arena memory = Arena::planner();
  const Model teacher = make_model(config, teacher_architecture(config), DType::f32, memory);
  config.num_hidden_layers = 2;
  Model student = make_model(config, blocks, DType::f32, memory);
  GkdTrainer(student, &teacher, options, planning).step(std::span(&batch, 1));
  double sum = costs.head;
  for (size_t b = 0; b < 2; ++b) sum += costs.forward[b] + costs.backward[b] + costs.teacher[b];
  EXPECT_DOUBLE_EQ(sum, planning.matmul_flops + planning.attention_flops);
  EXPECT_DOUBLE_EQ(costs.teacher[1], 2 * costs.teacher[0]);
}

// Oracle: every grid of at most so many ranks, that of most ranks and among these of the shortest step.
TEST(UptrainGrid, TakesAllRanksThatItCan) {
  for (uint64_t seed = 0; seed < 10; ++seed)
    for (int64_t ranks = 1; ranks <= 24; ++ranks) {
      const GkdCosts costs = random_costs(seed, 5);
      const int64_t micro_batches = 8, shards = 4;
      const std::vector<double> speeds = seed % 2 ? random_speeds(seed, ranks) : std::vector<double>();
      const UptrainGrid grid = uptrain_grid(costs, micro_batches, shards, ranks, speeds);
      int64_t most = 0;
      double shortest = 1e300;
      for (const int64_t replicas : {1, 2, 4})
        for (int64_t stages = 1; stages <= 5 && stages * replicas <= ranks; ++stages) {
          std::vector<double> slowest(size_t(stages), 1.0);  // replica of each stage
          for (int64_t r = 0; !speeds.empty() && r < stages * replicas; ++r)
            slowest[size_t(r / replicas)] = std::min(slowest[size_t(r / replicas)], speeds[size_t(r)]);
          const double step = best_of_all_cuts(costs, 0, slowest) * double(micro_batches / replicas + stages - 1);
          if (stages * replicas > most) most = stages * replicas, shortest = step;
          if (stages * replicas == most) shortest = std::min(shortest, step);
        }
      EXPECT_EQ(grid.shape().ranks(), most);
      EXPECT_DOUBLE_EQ(grid.step_flops(micro_batches), shortest);
    }
}

}  // namespace
}  // namespace tangram
