#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "blocks/untrained_model.h"
#include "distill/gkd_stages.h"
#include "nas/rank_speeds.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/teacher_cache.h"
#include "nas/training_loop.h"

namespace tangram {

// Trains the teacher of a config that brings none, on the corpus of skills.
std::vector<std::filesystem::path> run_pretrain(const StageInput& in) {
  const PretrainConfig& pretrain = *in.config.teacher.pretrain;
  if (!in.config.data.skills)
    throw bad_input("{}: teacher.pretrain needs data.skills, whose vocabulary it brings",
                    place_of(in.config, "teacher.pretrain"));
  ModelConfig config = pretrain.model;
  config.vocab_size = static_cast<int64_t>(kCorpusSymbols.size());
  config.eos_token_ids = {0};       // a newline ends a document
  search_space(in.config, config);  // a slip in it is refused before the work, though only distill reads it

  const std::filesystem::path folder = teacher_path(in.config, in.run_dir), curve_file = in.run_dir / "pretrain.csv";
  const TeacherCache cache(in.config, in.ctx.threads);
  if (pretrain.cache && cache.take(folder, curve_file)) {
    in.console.say("pretrain: taken from {}", cache.folder().string());
    return {folder, curve_file};
  }
  const TrainingConfig& training = pretrain.training;
  const TokenDataset tokens =
      load_tokens(in.config, in.run_dir, /*validation=*/false, static_cast<float>(pretrain.prompt_weight));
  Model model = move_model(make_untrained_model(config, teacher_architecture(config), training.dtype, in.config.seed),
                           in.ctx.device, in.ctx);
  GkdOptions options = trainer_options<GkdOptions>(training);
  options.loss = {.cosine = 0, .kl = 0, .cross_entropy = 1};
  GkdTrainer trainer(model, nullptr, options, in.ctx);
  options.teacher_layers.resize(model.blocks.size());
  const Batch batch = blank_batch(options.batch_tokens, in.config.data.sequence_length);
  const GkdCosts costs = gkd_costs(model.architecture(), config, training.dtype, options, batch, in.ctx.device);

  LossCurve curve{.columns = {"cross_entropy", "gradient_norm"}, .values = {}};
  run_training({.label = "pretrain",
                .steps = steps_of(training),
                .tokens_per_step = training.batch_tokens,
                .checkpoint_seconds = in.config.checkpoint_seconds,
                .checkpoints = in.work / "checkpoint",
                .state = [&] { return trainer.state(); },
                .resume = [&](int64_t steps_done) { trainer.resume(steps_done); },
                .step =
                    [&](int64_t step, bool) {
                      const GkdLosses l = trainer.step(batches_of_step(tokens, training, in.config.seed, step));
                      return std::vector<float>{float(l.cross_entropy), float(l.gradient_norm)};
                    },
                .note = [](std::span<const float> row) { return fmt::format("loss {:.4f}", row[0]); },
                .flops_per_step = costs.all() * double(training.micro_batches),
                .peak_flops = product_rates(in.world, training.dtype, in.ctx)[0]},
               curve, in.console, in.ctx);
  write_curve(curve_file, curve);
  save_model(folder, copy_model(move_model(model, Device::cpu, in.ctx), DType::bf16));
  write_file_atomically(folder / "tokenizer.json", corpus_tokenizer_json());
  write_file_atomically(folder / "tokenizer_config.json", corpus_tokenizer_config_json());
  if (pretrain.cache) cache.keep(folder, curve_file);
  return {folder, curve_file};
}

}  // namespace tangram
