#include <sys/statvfs.h>

#include <cerrno>
#include <cstring>

#include "blocks/safetensors.h"
#include "distill/checkpoint_folder.h"
#include "distill/depth_first.h"
#include "nas/rank_speeds.h"
#include "nas/run_files.h"
#include "nas/stage_distill.h"
#include "nas/training_loop.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr const char* kCurveName = "curve";

int64_t free_disk_bytes(const fs::path& folder) {
  struct statvfs disk {};
  if (statvfs(folder.c_str(), &disk) != 0) throw Error(fmt::format("{}: {}", folder.string(), std::strerror(errno)));
  return static_cast<int64_t>(disk.f_bavail) * static_cast<int64_t>(disk.f_frsize);
}

int64_t bytes_in(const fs::path& folder) {
  int64_t bytes = 0;
  for (const fs::directory_entry& file : fs::recursive_directory_iterator(folder))
    if (file.is_regular_file()) bytes += static_cast<int64_t>(file.file_size());
  return bytes;
}

/// One call of the stage. In its work folder, beside the boundaries: `checkpoint-<layer>`, a CheckpointFolder, of a
/// layer at work (`pass-<layer>` where it is only passed through), `curve-<layer>.safetensors` of a layer that is done,
/// whose students are in the library.
class DepthFirstStage {
 public:
  explicit DepthFirstStage(const StageInput& in)
      : in_(in),
        training_(in.config.distill.training),
        tokens_(load_tokens(in.config, in.run_dir, /*validation=*/false)),
        run_{.teacher = streamed_teacher(teacher_path(in.config, in.run_dir), training_.dtype),
             .replacements = {},
             .options = bld_options(in.config),
             .steps = steps_of(training_),
             .boundaries = in.work / "boundaries"},
        peak_flops_(product_rates(in.world, training_.dtype, in.ctx)[0]) {
    run_.replacements = trained_replacements(in.config, run_.teacher.config);
    fs::create_directories(run_.boundaries);
    fs::create_directories(library_dir(in.run_dir));
  }

  /// Whether all layers are done now, and not only those of the wave.
  bool run() {
    const LayerRange wave = checked_wave();
    std::vector<int64_t> layers;
    for (int64_t l = wave.begin; l < wave.end; ++l)
      if (!is_done(l)) layers.push_back(l);
    check_disk(layers);
    for (const int64_t layer : layers) {
      say_origin(layer);
      make_boundary(layer);
      train(layer);
    }
    say_traffic();
    for (int64_t l = 0; l < layer_count(); ++l)
      if (!is_done(l)) return false;
    return true;
  }

  void write_curves() const {
    LossCurve curve;
    const auto steps = static_cast<size_t>(run_.steps), columns = run_.replacements.size();
    curve.values.resize(steps * columns);
    for (const Replacement& r : run_.replacements) curve.columns.push_back(curve_column(r));
    for (int64_t l = 0; l < layer_count(); ++l) {
      const std::vector<size_t> places = places_of(l);
      const SafeTensors file = read_safetensors(curve_path(l));
      const Tensor losses = file.at(kCurveName, std::ssize(places), run_.steps);
      for (size_t i = 0; i < places.size(); ++i)
        std::copy_n(losses.row<float>(static_cast<int64_t>(i)), steps, curve.values.data() + places[i] * steps);
    }
    write_curve(in_.run_dir / "distill.csv", curve);
  }

 private:
  int64_t layer_count() const { return run_.teacher.config.num_hidden_layers; }
  fs::path curve_path(int64_t layer) const { return in_.work / fmt::format("curve-{}.safetensors", layer); }
  bool is_done(int64_t layer) const { return fs::exists(curve_path(layer)); }
  bool has_boundary(int64_t layer) const { return layer == 0 || fs::exists(boundary_path(run_.boundaries, layer)); }
  /// The first layer whose input is needed to train `layer`.
  int64_t first_input(int64_t layer) const {
    int64_t first = layer;
    for (const size_t place : places_of(layer)) first = std::min(first, run_.replacements[place].first_layer);
    return first;
  }
  /// From where to compute what is not there of the boundaries that `layer` needs; `layer` if all of them are.
  int64_t first_pass(int64_t layer) const {
    int64_t from = layer;
    for (int64_t l = first_input(layer); l <= layer; ++l)
      if (!has_boundary(l)) from = std::min(from, l - 1);
    while (!has_boundary(from)) --from;
    return from;
  }

  std::vector<size_t> places_of(int64_t layer) const {
    std::vector<size_t> places;
    for (size_t i = 0; i < run_.replacements.size(); ++i)
      if (run_.replacements[i].last_layer() == layer) places.push_back(i);
    return places;
  }

  LayerRange checked_wave() const {
    const LayerRange wave = in_.wave.value_or(LayerRange{0, layer_count()});
    if (wave.end > layer_count())
      throw bad_input("--wave layers={}:{}: the teacher's layers are 0:{}", wave.begin, wave.end, layer_count());
    return wave;
  }

  void check_disk(const std::vector<int64_t>& layers) const {
    if (layers.empty()) return;
    const BldPlan plan = DepthFirstLayer::plan(run_, layers.back(), blank_batch(run_.options.batch_tokens, 1),
                                               in_.ctx.device, in_.ctx.threads);
    const int64_t library = std::ssize(layers) * plan.weight_bytes;  // of those that are done it is on the disk
    check_depth_first_disk(run_, plan, library, free_disk_bytes(in_.work) + bytes_in(in_.work), in_.work.string());
  }

  void say_origin(int64_t layer) const {
    const int64_t from = first_pass(layer);
    if (from < layer)
      in_.console.say("distill: the boundary before layer {} is not there; computing it through layers {} to {}", layer,
                      from, layer - 1);
    else if (layer > 0 && in_.wave && layer == in_.wave->begin)
      in_.console.say("distill: the boundary before layer {} is there", layer);
  }

  /// The inputs that `layer` needs, by a forward pass where no wave has left them. Only what such passes made and
  /// nothing needs goes again.
  void make_boundary(int64_t layer) {
    const int64_t from = first_pass(layer), needed = first_input(layer);
    for (int64_t l = from; l < layer; ++l) {
      if (has_boundary(l + 1)) continue;
      DepthFirstLayer pass(run_, l, /*trained=*/false, in_.ctx);
      LossCurve nothing;
      const fs::path checkpoints = in_.work / fmt::format("pass-{}", l);
      run_layer(pass, l, checkpoints, "pass through", nothing, [&] { pass.start(); });
      fs::remove_all(checkpoints);
      if (l > from && l < needed) fs::remove(boundary_path(run_.boundaries, l));
    }
  }

  void train(int64_t layer) {
    DepthFirstLayer students(run_, layer, /*trained=*/true, in_.ctx);
    const fs::path checkpoints = in_.work / fmt::format("checkpoint-{}", layer);
    LossCurve curve;
    for (const size_t place : students.places()) curve.columns.push_back(curve_column(run_.replacements[place]));
    run_layer(students, layer, checkpoints, "distill", curve,
              [&] { students.start(load_statistics(statistics_path(in_.run_dir, layer), run_.teacher.config)); });
    for (const size_t place : students.places())
      save_entry(library_dir(in_.run_dir), students.entry(place), run_.teacher.config);
    const NamedTensor losses{kCurveName, view_of(curve.values.data(), std::ssize(curve.columns), run_.steps)};
    write_safetensors(curve_path(layer), std::span(&losses, 1));
    fs::remove_all(checkpoints);
    for (int64_t l = 1; l <= layer; ++l)
      if (!is_needed(l)) fs::remove(boundary_path(run_.boundaries, l));
  }

  /// Whether a layer that is not done reads the boundary before `boundary`.
  bool is_needed(int64_t boundary) const {
    for (int64_t l = boundary; l < layer_count(); ++l)
      if (!is_done(l) && first_input(l) <= boundary) return true;
    return false;
  }

  template <class Start>
  void run_layer(DepthFirstLayer& layer, int64_t index, const fs::path& checkpoints, const char* verb, LossCurve& curve,
                 Start start) {
    run_training({.label = fmt::format("{} layer {} of {}", verb, index, layer_count()),
                  .steps = run_.steps,
                  .tokens_per_step = training_.batch_tokens,
                  .checkpoint_seconds = in_.config.checkpoint_seconds,
                  .checkpoints = checkpoints,
                  .state = [&] { return layer.state(); },
                  .start = start,
                  .resume = [&](int64_t steps_done) { layer.resume(steps_done); },
                  .before_checkpoint = [&] { layer.flush(); },
                  .step =
                      [&](int64_t step, bool) {
                        layer.step(batches_of_step(tokens_, training_, in_.config.seed, step));
                        return layer.losses();
                      },
                  .note = mean_loss_note,
                  .flops_per_step = flops_per_step(index),
                  .peak_flops = layer.places().empty() ? 0 : peak_flops_},
                 curve, in_.console, in_.ctx);
    layer.finish();
    traffic_ += layer.io_times();
  }

  double flops_per_step(int64_t layer) const {
    const Batch batch = blank_batch(run_.options.batch_tokens, in_.config.data.sequence_length);
    const BldPlan plan = DepthFirstLayer::plan(run_, layer, batch, in_.ctx.device, in_.ctx.threads);
    return plan.matmul_flops + plan.attention_flops;
  }

  void say_traffic() const {
    if (traffic_.bytes_read + traffic_.bytes_written == 0) return;
    in_.console.say("distill: {} of boundaries read in {}, {} written in {}; {:.1f} % of that beside the computation",
                    format_bytes(double(traffic_.bytes_read)), format_seconds(traffic_.read_seconds),
                    format_bytes(double(traffic_.bytes_written)), format_seconds(traffic_.write_seconds),
                    100 * traffic_.hidden_fraction());
  }

  const StageInput& in_;
  const TrainingConfig& training_;
  const TokenDataset tokens_;
  DepthFirstRun run_;
  const double peak_flops_;
  IoTimes traffic_;
};

}  // namespace

void check_depth_first_disk(const DepthFirstRun& run, const BldPlan& plan, int64_t library_bytes, int64_t free_bytes,
                            const std::string& place) {
  const int64_t need = depth_first_disk_bytes(run, plan) + library_bytes, boundary = run.boundary().bytes();
  const int64_t boundaries = boundaries_at_once(run);
  if (need <= free_bytes) return;
  const int64_t batch = run.options.batch_tokens * run.options.micro_batches;
  const int64_t rest = free_bytes - (need - boundaries * boundary);  // for boundaries
  const int64_t tokens = boundaries > 0 ? rest / (boundaries * boundary / (run.steps * batch)) / batch * batch : 0;
  const std::string less =
      tokens > 0 ? fmt::format("distill.tokens to at most {}", tokens) : "distill.tokens and the number of variants";
  throw bad_input(
      "{}: distilling depth first needs {} of disk ({} boundaries of {}, {} checkpoints of {}, a library of {}), and "
      "{} are free; lower {}, or put the run on a larger disk with --run-dir",
      place, format_bytes(double(need)), boundaries, format_bytes(double(boundary)), kMostCheckpoints,
      format_bytes(double(plan.checkpoint_bytes())), format_bytes(double(library_bytes)),
      format_bytes(double(std::max<int64_t>(free_bytes, 0))), less);
}

std::vector<fs::path> run_distill_depth_first(const StageInput& in) {
  DepthFirstStage stage(in);
  if (!stage.run()) return {};
  stage.write_curves();
  return {library_dir(in.run_dir), in.run_dir / "distill.csv"};
}

}  // namespace tangram
