#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/cuda_devices.h"
#include "nas/evaluation_file.h"
#include "nas/hardware_file.h"
#include "nas/interruption.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "puzzle/quiet_timer.h"
#include "puzzle/table_costs.h"

namespace tangram {
namespace {

bool is_known(const ScenarioCosts& costs) { return !std::isnan(costs.prefill_seconds); }

/// Measures one scenario, and takes what an earlier measurement left in the table: it was paid for.
class ScenarioMeasurement {
 public:
  ScenarioMeasurement(ScoreTable& table, const Scenario& scenario, const ModelConfig& config, QuietTimer& timer,
                      const StageInput& in)
      : table_(table),
        scenario_(scenario),
        config_(config),
        timer_(timer),
        in_(in),
        index_(add_scenario(table, scenario)) {
    if (source().name != kMeasured) forget_costs(table, index_);
    source().name = kMeasured;
    before_ = source();
    // Layers of one model have equal shapes, so a variant is measured once for all of them.
    for (const TableRow& row : table.rows)
      if (const std::optional<Choice> choice = single_choice(row); choice && is_known(row.costs[index_]))
        known_[key(*choice)] = {row.costs[index_].prefill_seconds, row.costs[index_].decode_seconds};
  }

  void run() {
    measure_parts();
    if (std::isnan(source().prefill_error)) compare_with_wholes();
    save();
    if (source().disturbed_timings > 0)
      in_.console.say("measure {}: {}", scenario_.name,
                      disturbance_text(int64_t(source().disturbed_timings), int64_t(source().timings), "measure"));
  }

 private:
  using Key = std::pair<const Variant*, int64_t>;
  static Key key(const Choice& choice) { return {choice.variant, choice.size}; }

  CostSource& source() { return table_.sources[index_]; }
  void save() {
    const auto disturbed =
        std::count_if(timings_.begin(), timings_.end(), [&](const auto& t) { return timer_.is_disturbed(t); });
    source().timings = before_.timings + double(timings_.size());
    source().disturbed_timings = before_.disturbed_timings + double(disturbed);
    write_scores(table_, scores_path(in_.run_dir));
  }

  std::optional<Choice> single_choice(const TableRow& row) const {
    const Replacement r = replacement_of(row, config_);
    if (r.attention && r.ffn) return std::nullopt;
    return r.attention ? r.attention : r.ffn;
  }

  Runtime time(const std::function<Runtime()>& measure) {
    timings_.push_back(timer_.time(measure));
    return timings_.back().runtime;
  }

  void measure_parts() {
    Runtime outside{table_.outside[index_].prefill_seconds, table_.outside[index_].decode_seconds};
    if (!is_known(table_.outside[index_]))
      outside = time([&] { return measure_outside(config_, scenario_, options_, in_.ctx); });
    fill_outside(table_, index_, config_, outside, options_.prefill_tokens_at_most);
    Progress progress(in_.console, "measure " + scenario_.name, "replacements", double(table_.rows.size()));
    for (size_t i = 0; i < table_.rows.size(); ++i) {
      const size_t before = known_.size();
      fill_costs(table_.rows[i], table_, index_, config_, [&](const Choice& choice) {
        const auto found = known_.find(key(choice));
        if (found != known_.end()) return found->second;
        if (choice.variant->no_op) return Runtime{};
        return known_[key(choice)] =
                   time([&] { return measure_subblock(choice, config_, scenario_, options_, in_.ctx); });
      });
      if (known_.size() > before) save();
      stop_if_interrupted(fmt::format("behind what is measured of {}", scenario_.name));
      progress.update(double(i + 1));
    }
  }

  // Whole models in place of the sums of their parts, where they fit.
  void compare_with_wholes() {
    std::vector<Runtime> sums, wholes;
    for (const Architecture& sample : sample_architectures(table_, config_)) {
      const double bytes = model_parameters(sample, config_) * double(size_of(scenario_.precision));
      if (bytes > 0.7 * double(memory_bytes())) {
        in_.console.say("measure {}: a whole model of {} does not fit; sums of parts stay uncorrected", scenario_.name,
                        format_bytes(bytes));
        return;
      }
      sums.push_back(sum_of_parts(sample, table_, index_));
      wholes.push_back(time([&] { return measure_whole(sample, config_, scenario_, options_, in_.ctx).runtime; }));
    }
    learn_correction(source(), sums, wholes);
    save();
  }

  int64_t memory_bytes() const {
    if (in_.ctx.device == Device::cuda) return cuda_devices()[0].memory_bytes;
    return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  }

  ScoreTable& table_;
  const Scenario& scenario_;
  const ModelConfig& config_;
  QuietTimer& timer_;
  std::vector<QuietTimer::Timing> timings_;
  CostSource before_;  // of an earlier process
  const StageInput& in_;
  const MeasureOptions options_ = {};
  const size_t index_;
  std::map<Key, Runtime> known_;
};

}  // namespace

std::vector<std::filesystem::path> run_measure(const StageInput& in) {
  const Model teacher = load_teacher(in.config, in.run_dir, in.config.distill.training.dtype);
  ScoreTable table = read_scores(scores_path(in.run_dir));
  table.outside_parameters = outside_parameters(teacher.config);
  const std::vector<Scenario> scenarios = scenarios_of(in.config);
  if (in.again)
    for (const Scenario& scenario : scenarios) forget_costs(table, add_scenario(table, scenario));
  if (in.config.hardware.is_this()) {
    for (const Scenario& scenario : scenarios) check_runnable(scenario);
    QuietTimer timer(in.ctx);
    for (const Scenario& scenario : scenarios) ScenarioMeasurement(table, scenario, teacher.config, timer, in).run();
  } else {
    const Hardware hardware = hardware_of(in.config.hardware);
    for (const Scenario& scenario : scenarios)
      model_costs(table, scenario, teacher.config, hardware, source_name(hardware));
  }
  write_scores(table, scores_path(in.run_dir));
  return {scores_path(in.run_dir)};
}

}  // namespace tangram
