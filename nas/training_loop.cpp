#include "nas/training_loop.h"

#include <chrono>
#include <cmath>

#include "blocks/file.h"
#include "blocks/safetensors.h"
#include "kernels/transfer.h"
#include "nas/units.h"

namespace tangram {
namespace {

constexpr const char* kCurveName = "curve";

Tensor curve_view(LossCurve& curve, int64_t steps) {
  return view_of(curve.values.data(), steps, static_cast<int64_t>(curve.columns.size()));
}

// Fills the state and the curve from a checkpoint and returns the steps it has done; 0 if there is none.
int64_t read_checkpoint(const TrainingRun& run, LossCurve& curve, Context& ctx) {
  if (!std::filesystem::exists(run.checkpoint)) return 0;
  const SafeTensors file = read_safetensors(run.checkpoint);
  const auto step = file.metadata.find("steps_done");
  if (step == file.metadata.end()) throw bad_input("{}: no steps_done in its metadata", file.name);
  const auto steps_done = parse_count(step->second).value_or(-1);
  if (steps_done < 1 || steps_done > run.steps)
    throw bad_input("{}: done {} of {} steps", file.name, step->second, run.steps);
  for (const NamedTensor& t : run.state()) transfer(t.tensor, file.at(t.name, t.tensor.rows, t.tensor.cols), ctx);
  copy(curve_view(curve, steps_done), file.at(kCurveName, steps_done, static_cast<int64_t>(curve.columns.size())));
  return steps_done;
}

void write_checkpoint(const TrainingRun& run, LossCurve& curve, int64_t steps_done, Context& ctx) {
  std::vector<NamedTensor> tensors = run.state();
  tensors.push_back({kCurveName, curve_view(curve, steps_done)});
  write_safetensors(run.checkpoint, tensors, {{"steps_done", std::to_string(steps_done)}}, &ctx);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void run_training(const TrainingRun& run, LossCurve& curve, Console& console, Context& ctx) {
  const size_t columns = curve.columns.size();
  curve.values.assign(static_cast<size_t>(run.steps) * columns, 0.0f);
  const int64_t first = read_checkpoint(run, curve, ctx);
  if (first > 0) {
    run.resume(first);
    console.say("{}: goes on after step {} of {}", run.label, first, run.steps);
  } else if (run.start) {
    run.start();
  }
  Progress progress(console, run.label, "tokens", double(run.steps * run.tokens_per_step),
                    double(first * run.tokens_per_step));
  auto last_checkpoint = std::chrono::steady_clock::now();
  for (int64_t step = first; step < run.steps; ++step) {
    const std::vector<float> row = run.step(step);
    CHECK(row.size() == columns, "{} numbers for {} columns", row.size(), columns);
    std::copy(row.begin(), row.end(), curve.values.begin() + step * static_cast<int64_t>(columns));
    progress.update(double((step + 1) * run.tokens_per_step), run.note(row));
    if (step + 1 == run.steps || seconds_since(last_checkpoint) >= run.checkpoint_seconds) {
      if (run.before_checkpoint) run.before_checkpoint();
      write_checkpoint(run, curve, step + 1, ctx);
      last_checkpoint = std::chrono::steady_clock::now();
    }
  }
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
