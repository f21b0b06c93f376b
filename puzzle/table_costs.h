#pragma once
#include <functional>

#include "puzzle/measure.h"
#include "puzzle/roofline.h"
#include "puzzle/score_table.h"

namespace tangram {

/// Enters what a replacement costs in a scenario of its table: parameters and bytes counted, and the sum of the times
/// that `time_of` gives for its subblocks.
void fill_costs(TableRow& row, const ScoreTable& table, size_t scenario, const ModelConfig& config,
                const std::function<Runtime(const Choice&)>& time_of);

/// The same for what is outside the blocks.
void fill_outside(ScoreTable& table, size_t scenario, const ModelConfig& config, const Runtime& time);

/// Enters the workspace of models whose largest subblock is that of a row, as `workspace_of` gives it for each, and the
/// most of all rows and of the teacher's subblocks, which a search's limit counts.
void fill_workspace(ScoreTable& table, size_t scenario, const ModelConfig& config,
                    const std::function<double(const Choice&)>& workspace_of);

/// All costs of a scenario from the roofline model, for every row of the table; the error bars are those of the
/// teacher's times. Nothing is done where they are in the table already, from the same `source`. Returns whether
/// anything was. Throws Error (bad_input) if the hardware cannot run the scenario.
bool model_costs(ScoreTable& table, const Scenario& scenario, const ModelConfig& config, const Hardware& hardware,
                 const std::string& source);

/// Models in which every layer has other subblocks than the one before, where the table has several: the teacher first,
/// then one that takes the table's plain variants in turn. Sums of parts are compared with them as wholes.
std::vector<Architecture> sample_architectures(const ScoreTable& table, const ModelConfig& config);

/// What the table's parts of an architecture add up to in a scenario, with what is outside of blocks, uncorrected.
Runtime sum_of_parts(const Architecture& architecture, const ScoreTable& table, size_t scenario);

/// The factors from sums of parts to whole models: the geometric mean over the samples, and their largest relative
/// distance from it, at least 1 %, as the error bar.
void learn_correction(CostSource& source, std::span<const Runtime> sums, std::span<const Runtime> wholes);

}  // namespace tangram
