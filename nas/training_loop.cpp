#include "nas/training_loop.h"

#include <unistd.h>

#include <chrono>
#include <cmath>

#include "blocks/file.h"
#include "nas/units.h"

namespace tangram {
namespace {

constexpr const char* kCurveName = "curve";

Tensor curve_view(LossCurve& curve, int64_t steps) {
  return view_of(curve.values.data(), steps, static_cast<int64_t>(curve.columns.size()));
}

// Fills the state and the curve from the newest checkpoint and returns the steps it has done; 0 if there is none.
int64_t read_checkpoint(CheckpointFolder& folder, const TrainingRun& run, LossCurve& curve, Console& console,
                        Context& ctx) {
  const std::optional<Checkpoint> checkpoint = folder.newest();
  if (!checkpoint) return 0;
  const int64_t steps_done = checkpoint->steps_done;
  for (const std::string& problem : checkpoint->passed_over)
    console.say("{}: {}; the checkpoint of step {} takes its place", run.label, problem, steps_done);
  if (steps_done < 1 || steps_done > run.steps)
    throw bad_input("{}: done {} of {} steps", checkpoint->state.name, steps_done, run.steps);
  std::vector<NamedTensor> tensors = run.state();
  tensors.push_back({kCurveName, curve_view(curve, steps_done)});
  checkpoint->read(tensors, ctx);
  return steps_done;
}

void write_checkpoint(CheckpointFolder& folder, const TrainingRun& run, LossCurve& curve, int64_t steps_done,
                      Context& ctx) {
  if (run.before_checkpoint) run.before_checkpoint();
  std::vector<NamedTensor> tensors = run.state();
  if (run.ranks.rank == 0) tensors.push_back({kCurveName, curve_view(curve, steps_done)});
  folder.write(steps_done, tensors, {{"run", run.label}}, ctx);
}

/// A state that takes more than a quarter of the machine's memory is not copied for its checkpoint.
int64_t max_snapshot_bytes() { return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE) / 4; }

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void run_training(const TrainingRun& run, LossCurve& curve, Console& console, Context& ctx) {
  const size_t columns = curve.columns.size();
  curve.values.assign(static_cast<size_t>(run.steps) * columns, 0.0f);
  CheckpointFolder folder(run.checkpoints, {.ranks = run.ranks, .max_snapshot_bytes = max_snapshot_bytes()});
  const int64_t first = read_checkpoint(folder, run, curve, console, ctx);
  if (first > 0) {
    run.resume(first);
    console.say("{}: goes on after step {} of {}", run.label, first, run.steps);
  } else if (run.start) {
    run.start();
  }
  Progress progress(console, run.label, "tokens", double(run.steps * run.tokens_per_step),
                    double(first * run.tokens_per_step));
  const auto is_rank_0s = [&](bool mine) {  // whose clock counts
    return run.ranks.exchange ? !run.ranks.exchange(mine ? "due" : "").front().empty() : mine;
  };
  auto last_checkpoint = std::chrono::steady_clock::now();
  for (int64_t step = first; step < run.steps; ++step) {
    const std::vector<float> row = run.step(step);
    CHECK(row.size() == columns, "{} numbers for {} columns", row.size(), columns);
    std::copy(row.begin(), row.end(), curve.values.begin() + step * static_cast<int64_t>(columns));
    progress.update(double((step + 1) * run.tokens_per_step), run.note(row));
    const bool is_due = is_rank_0s(seconds_since(last_checkpoint) >= run.checkpoint_seconds);
    if (!folder.poll() || !is_due || step + 1 == run.steps) continue;
    write_checkpoint(folder, run, curve, step + 1, ctx);
    last_checkpoint = std::chrono::steady_clock::now();
  }
  if (first < run.steps) write_checkpoint(folder, run, curve, run.steps, ctx);
  folder.finish();
}

void write_curve(const std::filesystem::path& path, const LossCurve& curve) {
  std::string text = "step";
  for (const std::string& column : curve.columns) text += "," + column;
  const size_t columns = curve.columns.size();
  for (size_t step = 0; step * columns < curve.values.size(); ++step) {
    text += fmt::format("\n{}", step);
    for (size_t c = 0; c < columns; ++c) text += fmt::format(",{}", curve.values[step * columns + c]);
  }
  write_file_atomically(path, text + "\n");
}

Schedule schedule_of(const TrainingConfig& config) {
  Schedule schedule;
  schedule.learning_rate_peak = config.learning_rate;
  schedule.steps = steps_of(config);
  schedule.warmup_steps = std::llround(config.warmup * double(schedule.steps));
  schedule.decay_start = std::llround(config.decay_start * double(schedule.steps));
  schedule.final_fraction = config.final_learning_rate;
  return schedule;
}

int64_t steps_of(const TrainingConfig& config) { return config.tokens / config.batch_tokens; }

std::vector<Batch> batches_of_step(const TokenDataset& dataset, const TrainingConfig& config, uint64_t seed,
                                   int64_t step) {
  std::vector<Batch> batches;
  for (int64_t m = 0; m < config.micro_batches; ++m)
    batches.push_back(
        training_batch(dataset, config.batch_tokens / config.micro_batches, seed, step * config.micro_batches + m));
  return batches;
}

}  // namespace tangram
