#include "nas/uptrain_grid.h"

#include <algorithm>
#include <optional>

namespace tangram {

double UptrainGrid::step_flops(int64_t micro_batches) const {
  double slowest = 0;
  for (size_t s = 0; s < stages.size(); ++s) slowest = std::max(slowest, stages[s].flops / speeds[s]);
  return slowest * double(micro_batches / replicas + std::ssize(stages) - 1);
}

UptrainGrid uptrain_grid(const GkdCosts& costs, int64_t micro_batches, int64_t shards, int64_t ranks,
                         std::span<const double> speeds) {
  const auto blocks = std::ssize(costs.forward);
  for (; ranks > 0; --ranks) {
    std::optional<UptrainGrid> best;
    for (int64_t replicas = 1; replicas <= std::min(shards, ranks); replicas *= 2) {
      if (ranks % replicas != 0 || ranks / replicas > blocks) continue;
      const std::vector<double> of_stages = RankGrid{ranks / replicas, replicas}.stage_speeds(speeds);
      UptrainGrid grid{.replicas = replicas, .stages = cut_student(costs, of_stages), .speeds = of_stages};
      if (!best || grid.step_flops(micro_batches) < best->step_flops(micro_batches)) best = std::move(grid);
    }
    if (best) return *best;
  }
  throw bad_input("a student without blocks has nothing to train");
}

GkdPart part_of(const UptrainGrid& grid, Communicator& world, Communicator& replicas) {
  const int64_t stage = grid.shape().stage_of(world.rank());
  const GkdStage& own = grid.stages[size_t(stage)];
  return {.begin = own.begin,
          .end = own.end,
          .stage = stage,
          .stages = std::ssize(grid.stages),
          .replicas = {.group = &replicas, .index = grid.shape().replica_of(world.rank()), .count = grid.replicas},
          .world = &world};
}

}  // namespace tangram
