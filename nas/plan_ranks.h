#pragma once
#include "nas/distill_grid.h"
#include "nas/plan.h"

namespace tangram {

/// Distillation on the ranks of a job, one a GPU.
struct RanksPlan {
  int64_t ranks = 1;
  DistillGrid grid;
  StagePlan heaviest;                 ///< memory of the rank that needs most
  std::vector<double> stage_seconds;  ///< of a step of all waves, of a rank of each stage: what it computes
  double boundary_bytes = 0;          ///< a step: of a stage's residual streams to the next, by each replica
  double gradient_bytes = 0;          ///< a step and a wave: that the busiest rank sends its replicas
  double steps = 0, tokens = 0;       ///< of the run
  double seconds = 0;                 ///< of the run, by the simulation
  double utilisation = 1;             ///< part of all ranks' time that they compute, by the simulation
  std::string limited_by;             ///< "computation of stage 3", "the network between replicas"
  std::string advice = {};            ///< settings with which it would be faster, or fits at all
};

/// The fastest grid for so many GPUs, as a run chooses it, simulated for all its steps. Throws as distill_grid does.
RanksPlan plan_ranks(const SearchConfig& config, const ModelConfig& teacher, const PlanMachine& gpu, int64_t ranks);

/// What the simulation knows of a stage, in seconds.
struct StageTimes {
  double compute = 0;     ///< of a step, with all that does not run beside it
  double until_send = 0;  ///< from its start until it has computed what the next stage waits for
  double transfer = 0;    ///< of that, to the next stage, beside the computation
};

/// When each stage of a pipeline ends its last step, if each begins a step as soon as it has ended the one before and
/// its input is there, and sends step s only when the next stage has begun step s - 1 (StageLink).
std::vector<double> simulate_pipeline(std::span<const StageTimes> stages, int64_t steps);

std::string ranks_text(const RanksPlan& plan, const PlanMachine& gpu);
std::string ranks_json(const RanksPlan& plan, const PlanMachine& gpu);

}  // namespace tangram
