#pragma once
#include <optional>
#include <vector>

#include "distill/bld.h"
#include "distill/placement.h"
#include "nas/config.h"

namespace tangram {

/// How distillation is spread over the ranks of a job: rank = stage * replicas + replica, so that the replicas of a
/// stage, which exchange gradients, are neighbours. If the students do not fit into memory at once they train in waves,
/// one after the other over all of the text, for each of which the teacher's forward pass is repeated.
struct DistillGrid {
  int64_t replicas = 1;
  std::vector<BldStage> stages;
  std::vector<std::vector<std::vector<size_t>>> waves;  ///< [wave][stage]: units
  std::vector<BldUnit> units;
  double layer_flops = 0;  ///< of the teacher's forward pass through one layer and a micro-batch
  double balance = 1;      ///< mean over longest time of the stages

  int64_t ranks() const { return replicas * std::ssize(stages); }
  /// Operations of the slowest rank in a step of all waves.
  double slowest_flops(int64_t micro_batches) const;
};

/// Deals the units of each stage out to so many waves, of about equally much state.
void set_waves(DistillGrid& grid, size_t count);

/// What a rank may take: memory, where it is limited.
struct RankLimits {
  std::optional<int64_t> memory_bytes = {};
  Device device = Device::cpu;
};

/// The grid with the shortest time for a step on so many ranks, of those that fit; of equals the one with fewest
/// replicas. Throws Error (bad_input) if there are more ranks than work, (infeasible) if nothing fits.
DistillGrid distill_grid(const SearchConfig& config, const ModelConfig& teacher, int64_t ranks,
                         const RankLimits& limits);

/// What a rank of `world` does in a wave. `replicas` is the group of those of its stage.
BldPart part_of(const DistillGrid& grid, size_t wave, Communicator& world, Communicator& replicas);

/// The same of a stage's first replica in planning, which has no communicators.
BldPart planned_part(const DistillGrid& grid, size_t wave, size_t stage);

/// What a stage's first replica takes in a wave, laid out without computing.
struct RankNeeds {
  int64_t teacher_bytes = 0;  ///< its layers, and the embedding where they begin with the first
  BldPlan plan;

  int64_t bytes() const { return teacher_bytes + plan.memory_bytes() + plan.scratch_bytes; }
};
RankNeeds rank_needs(const DistillGrid& grid, size_t wave, size_t stage, std::span<const Replacement> replacements,
                     const SearchConfig& config, const ModelConfig& teacher, Device device);

}  // namespace tangram
