#include "distill/bld.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/training_loop.h"

namespace tangram {

std::vector<std::filesystem::path> run_distill(const StageInput& in) {
  const TrainingConfig& training = in.config.distill.training;
  const Model teacher = move_model(load_teacher(in.config, in.run_dir, training.dtype), in.ctx.device, in.ctx);
  const TokenDataset tokens = load_tokens(in.config, in.run_dir, /*validation=*/false);
  std::vector<Replacement> replacements;
  for (const Replacement& r : all_replacements(search_space(in.config, teacher.config), teacher.config))
    if (needs_training(r, teacher.config)) replacements.push_back(r);

  BldOptions options = trainer_options<BldOptions>(training);
  options.target = in.config.distill.target;
  options.init = in.config.distill.init;
  options.seed = in.config.seed;
  BldTrainer trainer(
      teacher, replacements, options,
      [&](int64_t layer) { return load_statistics(statistics_path(in.run_dir, layer), teacher.config); }, in.ctx);

  LossCurve curve;
  for (const Replacement& r : replacements) curve.columns.push_back(fmt::format("{}.{}", r.first_layer, r.name()));
  run_training({.label = fmt::format("distill {} variants", replacements.size()),
                .steps = steps_of(training),
                .tokens_per_step = training.batch_tokens,
                .checkpoint_seconds = in.config.checkpoint_seconds,
                .checkpoint = in.work / "checkpoint.safetensors",
                .state = [&] { return trainer.state(); },
                .resume = [&](int64_t steps_done) { trainer.resume(steps_done); },
                .step =
                    [&](int64_t step) {
                      trainer.step(batches_of_step(tokens, training, in.config.seed, step));
                      return std::vector<float>(trainer.losses().begin(), trainer.losses().end());
                    },
                .note =
                    [](std::span<const float> row) {
                      double sum = 0;
                      for (float loss : row) sum += double(loss);
                      return fmt::format("mean loss {:.4f}", sum / double(row.size()));
                    }},
               curve, in.console, in.ctx);
  std::filesystem::create_directories(library_dir(in.run_dir));  // also where nothing has to be trained
  for (size_t i = 0; i < replacements.size(); ++i)
    save_entry(library_dir(in.run_dir), trainer.entry(i), teacher.config);
  write_curve(in.run_dir / "distill.csv", curve);
  return {library_dir(in.run_dir), in.run_dir / "distill.csv"};
}

}  // namespace tangram
