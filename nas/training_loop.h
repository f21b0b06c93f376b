#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "blocks/model.h"
#include "distill/checkpoint_folder.h"
#include "nas/config.h"
#include "nas/progress.h"

namespace tangram {

/// Numbers that a training run records of every step, such as the loss of every variant.
struct LossCurve {
  std::vector<std::string> columns;
  std::vector<float> values;  ///< (columns, steps)
};

/// What stands in a checkpoint before the name of a column.
inline constexpr std::string_view kCurvePrefix = "curve/";

/// A training run as the loop sees it.
struct TrainingRun {
  std::string label;  ///< "distill", for progress and messages
  int64_t steps = 0, tokens_per_step = 0;
  double checkpoint_seconds = 300;
  std::filesystem::path checkpoints;                ///< their folder: see CheckpointFolder
  std::optional<Checkpoint> from = {};              ///< to go on from, in this folder or another; none: its newest
  std::function<std::vector<NamedTensor>()> state;  ///< what a checkpoint reads and writes
  std::function<void()> start = {};                 ///< where there is no checkpoint; or null
  std::function<void(int64_t steps_done)> resume;   ///< after the state was filled
  std::function<void()> before_checkpoint = {};     ///< or null
  /// Does one and returns its row of the curve. `is_last`: there is none after it in this process.
  std::function<std::vector<float>(int64_t step, bool is_last)> step;
  std::function<std::string(std::span<const float> row)> note;  ///< for the progress line
  double flops_per_step = 0, peak_flops = 0;     ///< operations, of all processes; a second at best. 0: unknown
  Communicator* world = nullptr;                 ///< of the processes that run it together, if several
  std::function<bool(size_t column)> owns = {};  ///< of the curve's columns; null: the leader has all
};

/// Runs all steps that the newest whole checkpoint has not done. Another is written beside the training every
/// `checkpoint_seconds` by the clock of rank 0, or as soon as the one before it is on disk if that takes longer; and
/// one at the end. A killed run that is called again ends with the same bytes. `curve.columns` is given, by names that
/// no other training in these checkpoints has (kCurvePrefix); its values are filled on the leader. Processes need not
/// be at the same step: the leader tells the others of each step what to do behind it, and none waits for another but
/// for its data.
///
/// Asked to end (nas/interruption.h), whichever rank is, all write a checkpoint behind the step that the leader begins
/// next and throw the Error of that. Beside the folder of checkpoints, progress.json tells every few seconds how far
/// the run is.
void run_training(const TrainingRun& run, LossCurve& curve, Console& console, Context& ctx);

/// `step,<column>,…` lines.
void write_curve(const std::filesystem::path& path, const LossCurve& curve);

/// What a training section of a config means: its schedule, its optimiser steps, and the micro-batches of one of them.
Schedule schedule_of(const TrainingConfig& config);
int64_t steps_of(const TrainingConfig& config);

/// The options of a trainer (BldOptions, GkdOptions) that a training section gives.
template <class Options>
Options trainer_options(const TrainingConfig& config) {
  Options options;
  options.optimiser = config.optimiser;
  options.schedule = schedule_of(config);
  options.batch_tokens = config.batch_tokens / config.micro_batches;
  options.micro_batches = config.micro_batches;
  return options;
}
/// Of a replica, its equal part of them.
std::vector<Batch> batches_of_step(const TokenDataset& dataset, const TrainingConfig& config, uint64_t seed,
                                   int64_t step, int64_t replica = 0, int64_t replicas = 1);

}  // namespace tangram
