#pragma once
#include "distill/depth_first.h"
#include "nas/distill_grid.h"
#include "nas/stages.h"

namespace tangram {

/// The replacements of a config that have something to train, and how they are trained.
std::vector<Replacement> trained_replacements(const SearchConfig& config, const ModelConfig& teacher);
BldOptions bld_options(const SearchConfig& config);

/// `distill` with distill.order breadth_first. `limits`: of the ranks, instead of those that are found here.
std::vector<std::filesystem::path> run_distill_breadth_first(const StageInput& in,
                                                             const std::optional<RankLimits>& limits = {});

/// `distill` with distill.order depth_first: what run_distill returns, or nothing where layers outside of in.wave are
/// still to do.
std::vector<std::filesystem::path> run_distill_depth_first(const StageInput& in);

/// Throws Error (bad_input) with the parts of the disk's need and what to change, if boundaries, checkpoints and a
/// library of `library_bytes` do not fit into `free_bytes`. `place` names the disk.
void check_depth_first_disk(const DepthFirstRun& run, const BldPlan& plan, int64_t library_bytes, int64_t free_bytes,
                            const std::string& place);

/// The mean of some losses of a step, for the progress line.
std::string mean_loss_note(std::span<const float> losses);
/// The name of a replacement's column in distill.csv.
std::string curve_column(const Replacement& replacement);

}  // namespace tangram
