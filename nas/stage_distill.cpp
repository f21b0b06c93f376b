#include "nas/stage_distill.h"

#include "distill/bld.h"
#include "nas/run_files.h"
#include "nas/training_loop.h"

namespace tangram {

std::vector<Replacement> trained_replacements(const SearchConfig& config, const ModelConfig& teacher) {
  std::vector<Replacement> replacements;
  for (const Replacement& r : all_replacements(search_space(config, teacher), teacher))
    if (needs_training(r, teacher)) replacements.push_back(r);
  return replacements;
}

BldOptions bld_options(const SearchConfig& config) {
  BldOptions options = trainer_options<BldOptions>(config.distill.training);
  options.target = config.distill.target;
  options.init = config.distill.init;
  options.shards = config.distill.training.shards;
  options.seed = config.seed;
  return options;
}

std::string mean_loss_note(std::span<const float> losses) {
  if (losses.empty()) return "";
  double sum = 0;
  for (const float loss : losses) sum += double(loss);
  return fmt::format("mean loss {:.4f}", sum / double(losses.size()));
}

std::string curve_column(const Replacement& r) { return fmt::format("{}.{}", r.layers(), r.name()); }

static std::vector<std::filesystem::path> run_distill_breadth_first(const StageInput& in) {
  const TrainingConfig& training = in.config.distill.training;
  const Model teacher = move_model(load_teacher(in.config, in.run_dir, training.dtype), in.ctx.device, in.ctx);
  const TokenDataset tokens = load_tokens(in.config, in.run_dir, /*validation=*/false);
  const std::vector<Replacement> replacements = trained_replacements(in.config, teacher.config);
  BldTrainer trainer(
      teacher, replacements, bld_options(in.config),
      [&](int64_t layer) { return load_statistics(statistics_path(in.run_dir, layer), teacher.config); }, in.ctx);

  LossCurve curve;
  for (const Replacement& r : replacements) curve.columns.push_back(curve_column(r));
  run_training({.label = fmt::format("distill {} variants", replacements.size()),
                .steps = steps_of(training),
                .tokens_per_step = training.batch_tokens,
                .checkpoint_seconds = in.config.checkpoint_seconds,
                .checkpoints = in.work / "checkpoint",
                .state = [&] { return trainer.state(); },
                .resume = [&](int64_t steps_done) { trainer.resume(steps_done); },
                .step =
                    [&](int64_t step) {
                      trainer.step(batches_of_step(tokens, training, in.config.seed, step));
                      return std::vector<float>(trainer.losses().begin(), trainer.losses().end());
                    },
                .note = mean_loss_note},
               curve, in.console, in.ctx);
  std::filesystem::create_directories(library_dir(in.run_dir));  // also where nothing has to be trained
  for (size_t i = 0; i < replacements.size(); ++i)
    save_entry(library_dir(in.run_dir), trainer.entry(i), teacher.config);
  write_curve(in.run_dir / "distill.csv", curve);
  return {library_dir(in.run_dir), in.run_dir / "distill.csv"};
}

std::vector<std::filesystem::path> run_distill(const StageInput& in) {
  if (in.config.distill.order == DistillOrder::depth_first) return run_distill_depth_first(in);
  if (in.wave) throw bad_input("--wave: trains layers one after the other; give --set distill.order=depth_first, too");
  return run_distill_breadth_first(in);
}

}  // namespace tangram
