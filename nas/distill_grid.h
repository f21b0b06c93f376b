#pragma once
#include <optional>
#include <vector>

#include "distill/bld.h"
#include "distill/placement.h"
#include "distill/rank_grid.h"
#include "nas/config.h"

namespace tangram {

/// How distillation is spread over the ranks of a job. If the students do not fit into memory at once they train in
/// waves, one after the other over all of the text, for each of which the teacher's forward pass is repeated.
struct DistillGrid {
  int64_t replicas = 1;
  std::vector<BldStage> stages;
  std::vector<std::vector<std::vector<size_t>>> waves;  ///< [wave][stage]: units
  std::vector<BldUnit> units;
  std::vector<double> speeds;  ///< of the stages, where the fastest rank has 1
  double layer_flops = 0;      ///< of the teacher's forward pass through one layer and a micro-batch
  double balance = 1;          ///< mean over longest time of the stages

  RankGrid shape() const { return {std::ssize(stages), replicas}; }
  /// Places of all students of a wave in the list of replacements, ascending.
  std::vector<size_t> places_of(size_t wave) const;
  /// Operations of the fastest rank in the time of the slowest one's step of all waves.
  double slowest_flops(int64_t micro_batches) const;
  /// Operations of all ranks in a wave's step, without what is computed twice.
  double wave_flops(size_t wave, int64_t micro_batches) const;
};

/// Deals the units among `units` out to so many more waves, each stage its own, of about equally much state.
void add_waves(DistillGrid& grid, std::span<const size_t> units, size_t count);

/// What ranks can do, and take.
struct RankLimits {
  std::optional<int64_t> memory_bytes = {};  ///< of each, where it is limited
  Device device = Device::cpu;
  std::vector<double> speeds = {};  ///< relative to the fastest (rank_speeds.h); none: all are the same
};

/// The grid with the shortest time for a step on so many ranks, of those that fit; of equals the one with fewest
/// replicas. Students that were begun on other ranks stand at different steps, and are in a wave only with others of
/// their step: `begun` are the places of such sets. Throws Error (bad_input) if there are more ranks than work,
/// (infeasible) if nothing fits.
DistillGrid distill_grid(const SearchConfig& config, const ModelConfig& teacher, int64_t ranks,
                         const RankLimits& limits, std::span<const std::vector<size_t>> begun = {});

/// With how many ranks, of at most so many, a step takes the shortest time; of those within 1 % of it the fewest.
int64_t useful_ranks(const SearchConfig& config, const ModelConfig& teacher, int64_t most);

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
