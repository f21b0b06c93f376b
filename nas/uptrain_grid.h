#pragma once
#include <vector>

#include "distill/gkd_stages.h"
#include "kernels/communicator.h"

namespace tangram {

/// How the training of one student is spread over ranks.
struct UptrainGrid {
  int64_t replicas = 1;
  std::vector<GkdStage> stages;
  std::vector<double> speeds;  ///< of the stages, where the fastest rank has 1

  RankGrid shape() const { return {std::ssize(stages), replicas}; }
  /// Operations of the fastest rank in the time of a step, with that in which the pipeline fills and empties.
  double step_flops(int64_t micro_batches) const;
};

/// The grid with the shortest step of those with so many ranks, or with as many fewer as it takes for there to be one;
/// of equals the one with fewest replicas. Its replicas are a power of two that divides `shards`. `speeds`: of the
/// ranks (RankGrid::stage_speeds).
UptrainGrid uptrain_grid(const GkdCosts& costs, int64_t micro_batches, int64_t shards, int64_t ranks,
                         std::span<const double> speeds = {});

/// What a rank of `world`, which has as many as the grid, does. `replicas` is the group of those of its stage.
GkdPart part_of(const UptrainGrid& grid, Communicator& world, Communicator& replicas);

}  // namespace tangram
