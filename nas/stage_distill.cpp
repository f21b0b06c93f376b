#include "nas/stage_distill.h"

#include "distill/bld.h"
#include "nas/distill_grid.h"
#include "nas/plan.h"
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
  int64_t count = 0;
  for (const float loss : losses) sum += double(loss), count += loss != 0;  // 0: another rank's
  return fmt::format("mean loss {:.4f}", sum / double(std::max<int64_t>(1, count)));
}

std::string curve_column(const Replacement& r) { return fmt::format("{}.{}", r.layers(), r.name()); }

namespace {

std::string describe(const DistillGrid& grid, int64_t ranks) {
  std::string text = fmt::format("{} ranks: {} stages x {} replicas, {:.0f} % balanced", ranks, grid.stages.size(),
                                 grid.replicas, 100 * grid.balance);
  if (grid.waves.size() > 1) text += fmt::format(", in {} waves over the text", grid.waves.size());
  return text;
}

/// Breadth first, on all ranks.
class BreadthFirst {
 public:
  explicit BreadthFirst(const StageInput& in)
      : in_(in),
        training_(in.config.distill.training),
        mapped_(load_teacher(in.config, in.run_dir, training_.dtype)),
        tokens_(load_tokens(in.config, in.run_dir, /*validation=*/false)),
        replacements_(trained_replacements(in.config, mapped_.config)) {}

  std::vector<std::filesystem::path> run() {
    for (const Replacement& r : replacements_) curve_.columns.push_back(curve_column(r));
    std::filesystem::create_directories(library_dir(in_.run_dir));  // also where nothing has to be trained
    if (!replacements_.empty()) train();
    if (in_.world.rank() == 0) write_curve(in_.run_dir / "distill.csv", curve_);
    return {library_dir(in_.run_dir), in_.run_dir / "distill.csv"};
  }

 private:
  void train() {
    const DistillGrid grid = distill_grid(in_.config, mapped_.config, in_.world.size(), limits());
    if (in_.world.size() > 1) in_.console.say("distill: {}", describe(grid, in_.world.size()));
    const auto rank = in_.world.rank(), stage = rank / static_cast<int>(grid.replicas);
    Communicator replicas = in_.world.split(stage, rank);
    if (in_.ctx.device == Device::cuda) in_.world.attach(in_.ctx);
    const BldStage& own = grid.stages[static_cast<size_t>(stage)];
    const TeacherSource teacher = teacher_part(mapped_, own.begin, own.end, in_.ctx);
    for (size_t w = 0; w < grid.waves.size(); ++w) {
      LossCurve of_wave;
      train_wave(of_wave, teacher, part_of(grid, w, in_.world, replicas),
                 grid.waves.size() > 1 ? fmt::format("-{}", w) : "");
      if (curve_.values.empty()) curve_.values.resize(of_wave.values.size());
      for (size_t i = 0; i < curve_.values.size(); ++i) curve_.values[i] += of_wave.values[i];
    }
  }

  /// Of GPUs that share the work, the least memory of any; one alone was looked at before the run.
  RankLimits limits() const {
    RankLimits limits{.memory_bytes = {}, .device = in_.ctx.device};
    if (in_.ctx.device == Device::cpu || in_.world.size() == 1) return limits;
    const PlanMachine gpu = this_gpu();
    int64_t least = INT64_MAX;
    for (const std::string& bytes : in_.world.gather(std::to_string(gpu.memory_bytes - gpu.resident_bytes)))
      least = std::min<int64_t>(least, std::stoll(bytes));
    limits.memory_bytes = least;
    return limits;
  }

  void train_wave(LossCurve& curve, const TeacherSource& teacher, const BldPart& part, const std::string& suffix) {
    BldTrainer trainer(
        teacher, replacements_, bld_options(in_.config), part,
        [&](int64_t layer) { return load_statistics(statistics_path(in_.run_dir, layer), mapped_.config); }, in_.ctx);
    curve.columns = curve_.columns;
    run_training({.label = fmt::format("distill {} variants", replacements_.size()),
                  .steps = steps_of(training_),
                  .tokens_per_step = training_.batch_tokens,
                  .checkpoint_seconds = in_.config.checkpoint_seconds,
                  .checkpoints = in_.work / ("checkpoint" + suffix),
                  .state = [&] { return trainer.state(); },
                  .resume = [&](int64_t steps_done) { trainer.resume(steps_done); },
                  .step =
                      [&](int64_t step, bool is_last) {
                        trainer.step(batches_of_step(tokens_, training_, in_.config.seed, step, part.replicas.index,
                                                     part.replicas.count),
                                     is_last);
                        return std::vector<float>(trainer.losses().begin(), trainer.losses().end());
                      },
                  .note = mean_loss_note,
                  .world = &in_.world,
                  .owns = [&](size_t column) { return trainer.owns(column); }},
                 curve, in_.console, in_.ctx);
    for (const size_t place : part.places)
      if (trainer.owns(place)) save_entry(library_dir(in_.run_dir), trainer.entry(place), mapped_.config);
  }

  const StageInput& in_;
  const TrainingConfig& training_;
  const Model mapped_;
  const TokenDataset tokens_;
  const std::vector<Replacement> replacements_;
  LossCurve curve_;
};

}  // namespace

std::vector<std::filesystem::path> run_distill(const StageInput& in) {
  if (in.config.distill.order == DistillOrder::depth_first) {
    if (in.world.size() > 1)
      throw bad_input("distill.order: depth_first is for one process, and there are {}; allowed here: breadth_first",
                      in.world.size());
    return run_distill_depth_first(in);
  }
  if (in.wave) throw bad_input("--wave: trains layers one after the other; give --set distill.order=depth_first, too");
  return BreadthFirst(in).run();
}

}  // namespace tangram
