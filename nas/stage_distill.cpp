#include "nas/stage_distill.h"

#include <algorithm>
#include <numeric>

#include "distill/bld.h"
#include "nas/begun_students.h"
#include "nas/plan.h"
#include "nas/rank_speeds.h"
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
  const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
  return fmt::format("mean loss {:.4f}", sum / double(losses.size()));
}

std::string curve_column(const Replacement& r) { return fmt::format("{}.{}", r.layers(), r.name()); }

namespace {

std::string describe(const DistillGrid& grid, std::span<const double> rank_speeds) {
  std::string text = fmt::format("{} ranks: {} stages x {} replicas, {:.0f} % balanced", grid.shape().ranks(),
                                 grid.stages.size(), grid.replicas, 100 * grid.balance);
  if (std::any_of(rank_speeds.begin(), rank_speeds.end(), [](double speed) { return speed < 1; }))
    text += fmt::format(", for ranks of the speeds {:.2f}", fmt::join(rank_speeds, " "));
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
        replacements_(trained_replacements(in.config, mapped_.config)) {
    for (const Replacement& r : replacements_) curve_.columns.push_back(curve_column(r));
    curve_.values.resize(replacements_.size() * static_cast<size_t>(steps_of(training_)));
  }

  std::vector<std::filesystem::path> run(const std::optional<RankLimits>& limits) {
    std::filesystem::create_directories(library_dir(in_.run_dir));  // also where nothing has to be trained
    if (!replacements_.empty()) train(limits);
    if (in_.world.rank() == 0) write_curve(in_.run_dir / "distill.csv", curve_);
    return {library_dir(in_.run_dir), in_.run_dir / "distill.csv"};
  }

 private:
  /// What the waves of a run share.
  struct Shared {
    DistillGrid grid;
    TeacherSource teacher;
    Communicator replicas;
    double peak_flops;
  };

  void train(const std::optional<RankLimits>& given) {
    const std::vector<double> rates = product_rates(in_.world, training_.dtype, in_.ctx);
    const RankLimits limits = given ? *given : limits_here(rates);
    const std::vector<BegunStudents> begun = begun_students(in_.work, curve_.columns, in_.world);
    std::vector<std::vector<size_t>> same_step;
    std::vector<std::filesystem::path> folders;
    for (const BegunStudents& students : begun)
      same_step.push_back(students.places), folders.push_back(students.folder);
    DistillGrid grid = distill_grid(in_.config, mapped_.config, in_.world.size(), limits, same_step);
    if (in_.world.size() > 1) in_.console.say("distill: {}", describe(grid, limits.speeds));
    const auto stage = static_cast<size_t>(grid.shape().stage_of(in_.world.rank()));
    Communicator replicas = in_.world.split(static_cast<int>(stage), in_.world.rank());
    if (in_.ctx.device == Device::cuda) in_.world.attach(in_.ctx);
    const TeacherSource teacher = teacher_part(mapped_, grid.stages[stage].begin, grid.stages[stage].end, in_.ctx);
    Shared shared{std::move(grid), teacher, replicas, std::accumulate(rates.begin(), rates.end(), 0.0)};
    for (size_t w = 0; w < shared.grid.waves.size(); ++w) {
      const std::vector<size_t> places = shared.grid.places_of(w);
      const auto from = std::find_if(begun.begin(), begun.end(), [&](const BegunStudents& students) {
        return std::binary_search(students.places.begin(), students.places.end(), places[0]);
      });
      const bool is_as_before = from != begun.end() && from->places == places;
      if (!is_as_before) folders.push_back(new_checkpoint_folder(in_.work, folders));
      train_wave(shared, w, is_as_before ? from->folder : folders.back(),
                 from != begun.end() ? std::optional(from->checkpoint) : std::nullopt);
    }
  }

  /// Of GPUs that share the work, the least memory of any; one alone was looked at before the run.
  RankLimits limits_here(std::span<const double> rates) const {
    RankLimits limits{.memory_bytes = {}, .device = in_.ctx.device, .speeds = relative_speeds(rates)};
    if (in_.ctx.device == Device::cpu || in_.world.size() == 1) return limits;
    const PlanMachine gpu = this_gpu();
    int64_t least = INT64_MAX;
    for (const std::string& bytes : in_.world.gather(std::to_string(gpu.memory_bytes - gpu.resident_bytes)))
      least = std::min<int64_t>(least, std::stoll(bytes));
    limits.memory_bytes = least;
    return limits;
  }

  void train_wave(Shared& shared, size_t wave, const std::filesystem::path& checkpoints,
                  const std::optional<Checkpoint>& from) {
    const std::vector<size_t> places = shared.grid.places_of(wave);
    const BldPart part = part_of(shared.grid, wave, in_.world, shared.replicas);
    BldTrainer trainer(
        shared.teacher, replacements_, bld_options(in_.config), part,
        [&](int64_t layer) { return load_statistics(statistics_path(in_.run_dir, layer), mapped_.config); }, in_.ctx);
    const auto losses_of = [&](std::span<const size_t> some) {
      std::vector<float> losses;
      for (const size_t place : some) losses.push_back(trainer.losses()[place]);
      return losses;
    };
    LossCurve curve;
    for (const size_t place : places) curve.columns.push_back(curve_.columns[place]);
    run_training({.label = label_of(places.size()),
                  .steps = steps_of(training_),
                  .tokens_per_step = training_.batch_tokens,
                  .checkpoint_seconds = in_.config.checkpoint_seconds,
                  .checkpoints = checkpoints,
                  .from = from,
                  .state = [&] { return trainer.state(); },
                  .resume = [&](int64_t steps_done) { trainer.resume(steps_done); },
                  .step =
                      [&](int64_t step, bool is_last) {
                        trainer.step(batches_of_step(tokens_, training_, in_.config.seed, step, part.replicas.index,
                                                     part.replicas.count),
                                     is_last);
                        return losses_of(places);
                      },
                  .note = [&](std::span<const float>) { return mean_loss_note(losses_of(part.places)); },
                  .flops_per_step = shared.grid.wave_flops(wave, training_.micro_batches),
                  .peak_flops = shared.peak_flops,
                  .world = &in_.world,
                  .owns = [&](size_t column) { return trainer.owns(places[column]); }},
                 curve, in_.console, in_.ctx);
    const auto steps = static_cast<size_t>(steps_of(training_));
    for (size_t c = 0; c < places.size(); ++c)
      std::copy_n(curve.values.data() + c * steps, steps, curve_.values.data() + places[c] * steps);
    for (const size_t place : part.places)
      if (trainer.owns(place)) save_entry(library_dir(in_.run_dir), trainer.entry(place), mapped_.config);
  }

  std::string label_of(size_t variants) const {
    if (variants == replacements_.size()) return fmt::format("distill {} variants", variants);
    return fmt::format("distill {} of the {} variants", variants, replacements_.size());
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
  return run_distill_breadth_first(in);
}

std::vector<std::filesystem::path> run_distill_breadth_first(const StageInput& in,
                                                             const std::optional<RankLimits>& limits) {
  return BreadthFirst(in).run(limits);
}

}  // namespace tangram
