#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "distill/gkd.h"
#include "nas/architecture_file.h"
#include "nas/gpu_run.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/training_loop.h"

namespace tangram {
namespace {

// Heals one student; its checkpoints are its own, so a student that is finished is not begun again.
void uptrain_student(const StageInput& in, const Model& teacher, const ChosenArchitecture& chosen,
                     const TokenDataset& tokens) {
  const std::filesystem::path folder = student_path(in.run_dir, chosen.name);
  const std::filesystem::path checkpoints = in.work / chosen.name / "checkpoint";
  const std::filesystem::path finished = in.work / chosen.name / "finished";
  if (exists(folder) && exists(finished)) return;
  const TrainingConfig& training = in.config.uptrain.training;
  Model student = move_model(
      copy_model(assemble(teacher, replacements_of(chosen, teacher.config), library_dir(in.run_dir)), training.dtype),
      in.ctx.device, in.ctx);
  const Model teacher_there = move_model(teacher, in.ctx.device, in.ctx);
  GkdOptions options = trainer_options<GkdOptions>(training);
  options.loss = in.config.uptrain.loss;
  options.teacher_layers = last_layers(chosen);
  GkdTrainer trainer(student, &teacher_there, options, in.ctx);

  LossCurve curve{.columns = {"cosine", "kl", "cross_entropy", "gradient_norm"}, .values = {}};
  run_training(
      {.label = "uptrain " + chosen.name,
       .steps = steps_of(training),
       .tokens_per_step = training.batch_tokens,
       .checkpoint_seconds = in.config.checkpoint_seconds,
       .checkpoints = checkpoints,
       .state = [&] { return trainer.state(); },
       .resume = [&](int64_t steps_done) { trainer.resume(steps_done); },
       .step =
           [&](int64_t step, bool) {
             // Other sequences first than distillation saw first.
             const GkdLosses l = trainer.step(batches_of_step(tokens, training, in.config.seed + 1, step));
             return std::vector<float>{float(l.cosine), float(l.kl), float(l.cross_entropy), float(l.gradient_norm)};
           },
       .note = [](std::span<const float> row) { return fmt::format("KL {:.4f}", row[1]); }},
      curve, in.console, in.ctx);
  save_model(folder, move_model(student, Device::cpu, in.ctx), {.tokenizer_from = teacher_path(in.config, in.run_dir)});
  write_curve(student_curve_path(in.run_dir, chosen.name), curve);
  write_file_atomically(finished, "");
  remove_all(checkpoints);
}

}  // namespace

std::vector<std::filesystem::path> run_uptrain(const StageInput& in) {
  if (in.ctx.device == Device::cuda) check_uptrain_memory(in.config, in.ctx);
  const Model teacher = load_teacher(in.config, in.run_dir, in.config.uptrain.training.dtype);
  const TokenDataset tokens = load_tokens(in.config, in.run_dir, /*validation=*/false);
  const std::filesystem::path architectures = architecture_path(in.run_dir, "any").parent_path();
  for (const ChosenArchitecture& chosen : read_architectures(architectures))
    if (is_healed(chosen)) uptrain_student(in, teacher, chosen, tokens);
  return {in.run_dir / "students"};
}

}  // namespace tangram
