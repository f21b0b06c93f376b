#include "nas/training_loop.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "nas/interruption.h"
#include "nas/ranks.h"
#include "nas/units.h"

namespace tangram {
namespace {

constexpr int kOrderTag = 200, kWishTag = 201;
constexpr double kProgressFileSeconds = 3;

/// What all ranks do behind a step.
enum class Order : char { go_on = 'g', checkpoint = 'c', stop = 's' };

/// Every rank but the leader sends it exactly one wish: to stop, as soon as it is asked to; or none, at the end.
class Wishes {
 public:
  Wishes(Communicator* world) : world_(world) {
    if (!world || world->rank() > 0) return;
    stop_.resize(size_t(world->size() - 1));
    for (size_t r = 0; r < stop_.size(); ++r)
      wishes_.push_back(world->receive(view_of(&stop_[r], 1, 1), static_cast<int>(r) + 1, kWishTag));
  }

  /// Of another rank than the leader.
  void tell(bool stop) {
    if (told_ || !world_ || world_->rank() == 0) return;
    const uint8_t wish = stop;
    world_->send(view_of(const_cast<uint8_t*>(&wish), 1, 1), 0, kWishTag).wait();
    told_ = true;
  }
  /// Of the leader: whether another rank is known to wish it.
  bool stop() const {
    for (size_t r = 0; r < wishes_.size(); ++r)
      if (wishes_[r].finished() && stop_[r]) return true;
    return false;
  }
  /// All ranks call it behind their last step.
  void end() {
    tell(false);
    for (Pending& wish : wishes_) wish.wait();
  }

 private:
  Communicator* const world_;
  std::vector<uint8_t> stop_;  // of rank 1 on
  std::vector<Pending> wishes_;
  bool told_ = false;
};

class Loop {
 public:
  Loop(const TrainingRun& run, LossCurve& curve, Console& console, Context& ctx)
      : run_(run),
        curve_(curve),
        console_(console),
        ctx_(ctx),
        folder_(run.checkpoints, checkpoint_options(run)),
        wishes_(run.world) {}

  void operator()() {
    curve_.values.assign(curve_.columns.size() * static_cast<size_t>(run_.steps), 0.0f);
    const int64_t first = read_checkpoint();
    if (first > 0) {
      run_.resume(first);
      console_.say("{}: goes on after step {} of {}", run_.label, first, run_.steps);
    } else if (run_.start) {
      run_.start();
    }
    Progress progress(console_, run_.label, "tokens", double(run_.steps * run_.tokens_per_step),
                      double(first * run_.tokens_per_step), LogLines::each_second);
    first_step_ = first;
    start_ = last_checkpoint_ = Clock::now();
    bool stop = false;
    for (int64_t step = first; step < run_.steps && !stop; ++step) {
      const Order order = order_behind(step);
      stop = order == Order::stop;
      const bool is_last = stop || step + 1 == run_.steps;
      const std::vector<float> row = run_.step(step, is_last);
      CHECK(row.size() == curve_.columns.size(), "{} numbers for {} columns", row.size(), curve_.columns.size());
      for (size_t c = 0; c < row.size(); ++c) *curve_value(c, step) = row[c];
      const std::string note = run_.note(row) + fraction_of_peak(step + 1);
      progress.update(double((step + 1) * run_.tokens_per_step), note);
      if (leads()) write_progress(step + 1, note);
      if (is_last || order == Order::checkpoint) write_checkpoint(step + 1);
      if (stop && step + 1 < run_.steps) return end_early(step + 1);
    }
    wishes_.end();
    folder_.finish();
    gather_curve();
  }

 private:
  using Clock = std::chrono::steady_clock;

  static CheckpointOptions checkpoint_options(const TrainingRun& run) {
    CheckpointOptions options;
    // Where the states of a node's ranks take more than a quarter of its memory, they are not copied for a checkpoint.
    options.max_snapshot_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE) / 4;
    if (!run.world || run.world->size() == 1) return options;
    options.max_snapshot_bytes /= ranks_on_node(*run.world);
    options.ranks = ranks_of(*run.world);
    return options;
  }

  int ranks() const { return run_.world ? run_.world->size() : 1; }
  bool leads() const { return !run_.world || run_.world->rank() == 0; }
  bool owns(size_t column) const { return run_.owns ? run_.owns(column) : leads(); }

  float* curve_value(size_t column, int64_t step) { return curve_.values.data() + int64_t(column) * run_.steps + step; }

  /// The columns that this process owns, or all, of the steps done.
  std::vector<NamedTensor> columns(int64_t steps_done, bool all) {
    std::vector<NamedTensor> tensors;
    for (size_t c = 0; c < curve_.columns.size(); ++c)
      if (all || owns(c))
        tensors.push_back(
            {fmt::format("{}{}", kCurvePrefix, curve_.columns[c]), view_of(curve_value(c, 0), 1, steps_done)});
    return tensors;
  }

  /// Fills the state and the curve from the newest checkpoint and returns the steps it has done; 0 if there is none.
  int64_t read_checkpoint() {
    const std::optional<Checkpoint> checkpoint = run_.from ? run_.from : folder_.newest();
    if (!checkpoint) return 0;
    folder_.follow(*checkpoint);
    const int64_t steps_done = checkpoint->steps_done;
    for (const std::string& problem : checkpoint->passed_over)
      console_.say("{}: {}; the checkpoint of step {} takes its place", run_.label, problem, steps_done);
    if (steps_done < 1 || steps_done > run_.steps)
      throw bad_input("{}: done {} of {} steps", checkpoint->state.name, steps_done, run_.steps);
    checkpoint->read(run_.state(), ctx_);
    checkpoint->read(columns(steps_done, /*all=*/true), ctx_);
    return steps_done;
  }

  void write_checkpoint(int64_t steps_done) {
    if (run_.before_checkpoint) run_.before_checkpoint();
    std::vector<NamedTensor> tensors = run_.state();
    for (NamedTensor& column : columns(steps_done, /*all=*/false)) tensors.push_back(std::move(column));
    folder_.write(steps_done, tensors, {{"run", run_.label}}, ctx_);
    last_checkpoint_ = Clock::now();
  }

  [[noreturn]] void end_early(int64_t steps_done) {
    wishes_.end();
    folder_.finish();
    if (ranks() > 1) run_.world->barrier();  // the checkpoint is whole before any rank says so
    throw interrupted(fmt::format("behind step {} of {} of {}", steps_done, run_.steps, run_.label));
  }

  double steps_per_second(int64_t steps_done) const {
    const std::chrono::duration<double> seconds = Clock::now() - start_;
    return double(steps_done - first_step_) / std::max(seconds.count(), 1e-9);
  }

  /// ", 61 % of peak", where it is known.
  std::string fraction_of_peak(int64_t steps_done) const {
    if (run_.peak_flops <= 0) return "";
    return fmt::format(", {:.0f} % of peak",
                       100 * run_.flops_per_step * steps_per_second(steps_done) / run_.peak_flops);
  }

  /// For `tangram status`. What goes wrong with it ends no training.
  void write_progress(int64_t steps_done, const std::string& note) {
    const auto now = Clock::now();
    if (steps_done > first_step_ + 1 && steps_done < run_.steps &&
        std::chrono::duration<double>(now - wrote_progress_).count() < kProgressFileSeconds)
      return;
    wrote_progress_ = now;
    const double rate = steps_per_second(steps_done);
    const nlohmann::ordered_json progress = {
        {"label", run_.label},
        {"step", steps_done},
        {"steps", run_.steps},
        {"tokens_per_second", rate * double(run_.tokens_per_step)},
        {"seconds_left", double(run_.steps - steps_done) / rate},
        {"note", note},
        {"ranks", ranks()},
        {"written_at", std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count()}};
    try {
      write_file_atomically(run_.checkpoints.parent_path() / "progress.json", progress.dump(2) + "\n");
    } catch (const Error&) {
    }
  }

  /// The leader decides, by its own clock, and the others hear of it before they begin the step.
  Order order_behind(int64_t step) {
    if (ranks() > 1) run_.world->set_label(fmt::format("{}, step {}", run_.label, step));
    if (!leads()) {
      if (!interruption().empty()) wishes_.tell(true);
      return static_cast<Order>(run_.world->receive_string(0, kOrderTag).at(0));
    }
    const std::chrono::duration<double> since = Clock::now() - last_checkpoint_;
    const bool is_due = folder_.poll() && since.count() >= run_.checkpoint_seconds;
    Order order = is_due ? Order::checkpoint : Order::go_on;
    if (!interruption().empty() || wishes_.stop()) order = Order::stop;
    std::vector<Pending> orders;
    for (int r = 1; r < ranks(); ++r)
      orders.push_back(run_.world->send(std::string(1, static_cast<char>(order)), r, kOrderTag));
    for (Pending& sent : orders) sent.wait();
    return order;
  }

  /// The leader gets the columns of the others.
  void gather_curve() {
    if (ranks() == 1) return;
    const size_t bytes = static_cast<size_t>(run_.steps) * sizeof(float);
    std::string mine;
    for (size_t c = 0; c < curve_.columns.size(); ++c)
      if (owns(c)) mine += fmt::format("{} ", c) + std::string(reinterpret_cast<const char*>(curve_value(c, 0)), bytes);
    const std::vector<std::string> all = run_.world->gather(mine);
    for (const std::string& text : all)
      for (size_t at = 0; at < text.size();) {
        const size_t space = text.find(' ', at);
        const size_t column = std::stoul(text.substr(at, space - at));
        std::memcpy(curve_value(column, 0), text.data() + space + 1, bytes);
        at = space + 1 + bytes;
      }
  }

  const TrainingRun& run_;
  LossCurve& curve_;
  Console& console_;
  Context& ctx_;
  CheckpointFolder folder_;
  Wishes wishes_;
  int64_t first_step_ = 0;
  Clock::time_point start_, last_checkpoint_, wrote_progress_;
};

}  // namespace

void run_training(const TrainingRun& run, LossCurve& curve, Console& console, Context& ctx) {
  Loop(run, curve, console, ctx)();
}

void write_curve(const std::filesystem::path& path, const LossCurve& curve) {
  std::string text = "step";
  for (const std::string& column : curve.columns) text += "," + column;
  const size_t columns = curve.columns.size();
  const size_t steps = columns > 0 ? curve.values.size() / columns : 0;
  for (size_t step = 0; step < steps; ++step) {
    text += fmt::format("\n{}", step);
    for (size_t c = 0; c < columns; ++c) text += fmt::format(",{}", curve.values[c * steps + step]);
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
                                   int64_t step, int64_t replica, int64_t replicas) {
  std::vector<Batch> batches;
  const int64_t count = config.micro_batches / replicas;
  for (int64_t m = replica * count; m < (replica + 1) * count; ++m)
    batches.push_back(
        training_batch(dataset, config.batch_tokens / config.micro_batches, seed, step * config.micro_batches + m));
  return batches;
}

}  // namespace tangram
