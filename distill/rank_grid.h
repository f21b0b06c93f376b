#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace tangram {

/// How ranks stand in a pipeline of stages with replicas each: rank = stage * replicas + replica, so that the replicas
/// of a stage, which exchange gradients, are neighbours.
struct RankGrid {
  int64_t stages = 1, replicas = 1;

  int64_t ranks() const { return stages * replicas; }
  int64_t stage_of(int64_t rank) const { return rank / replicas; }
  int64_t replica_of(int64_t rank) const { return rank % replicas; }
  int rank_of(int64_t stage, int64_t replica) const { return static_cast<int>(stage * replicas + replica); }

  /// Of every stage, which is as fast as the slowest of its replicas. `speeds` are those of all ranks of the
  /// job, of which the first are in the grid; none: all are the same.
  std::vector<double> stage_speeds(std::span<const double> speeds) const {
    std::vector<double> of_stages(static_cast<size_t>(stages), 1.0);
    for (int64_t rank = 0; !speeds.empty() && rank < ranks(); ++rank) {
      double& stage = of_stages[static_cast<size_t>(stage_of(rank))];
      const double own = speeds[static_cast<size_t>(rank)];
      stage = replica_of(rank) == 0 ? own : std::min(stage, own);
    }
    return of_stages;
  }
};

}  // namespace tangram
