#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "nas/evaluation_file.h"
#include "nas/hardware_file.h"
#include "nas/interruption.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "puzzle/odd_times.h"
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
        known_[key(*choice)] = {{row.costs[index_].prefill_seconds, row.costs[index_].decode_seconds},
                                row.costs[index_].is_disturbed == 1,
                                {}};
    outside_.was_disturbed = table_.outside[index_].is_disturbed == 1;
  }

  void run() {
    measure_parts();
    measure_odd_ones_again();
    if (std::isnan(source().prefill_error)) compare_with_wholes();
    save();
    name_odd_ones();
    if (source().disturbed_timings > 0)
      in_.console.say("measure {}: {}", scenario_.name,
                      disturbance_text(int64_t(source().disturbed_timings), int64_t(source().timings), "measure"));
  }

 private:
  using Key = std::pair<const Variant*, int64_t>;
  static Key key(const Choice& choice) { return {choice.variant, choice.size}; }

  /// A part's time, and its timing where this process took it.
  struct Known {
    Runtime runtime;
    bool was_disturbed = false;  ///< in an earlier process
    std::optional<size_t> timing = {};
  };

  CostSource& source() { return table_.sources[index_]; }
  bool is_disturbed(const Known& known) const {
    return known.timing ? timer_.is_disturbed(timings_[*known.timing]) : known.was_disturbed;
  }

  // With what is known by now of how quiet the machine was.
  void save() {
    for (TableRow& row : table_.rows) {
      if (!is_known(row.costs[index_])) continue;
      bool disturbed = false;
      const Replacement r = replacement_of(row, config_);
      for (const std::optional<Choice>& choice : {r.attention, r.ffn})
        if (choice && known_.contains(key(*choice))) disturbed = disturbed || is_disturbed(known_.at(key(*choice)));
      row.costs[index_].is_disturbed = disturbed;
    }
    table_.outside[index_].is_disturbed = is_disturbed(outside_);
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

  Known time(const std::function<Runtime()>& measure) {
    timings_.push_back(timer_.time(measure));
    return {timings_.back().runtime, false, timings_.size() - 1};
  }
  Known time(const Choice& choice) {
    return time([&] { return measure_subblock(choice, config_, scenario_, options_, in_.ctx); });
  }

  void measure_parts() {
    outside_.runtime = {table_.outside[index_].prefill_seconds, table_.outside[index_].decode_seconds};
    if (!is_known(table_.outside[index_]))
      outside_ = time([&] { return measure_outside(config_, scenario_, options_, in_.ctx); });
    fill_outside(table_, index_, config_, outside_.runtime);
    fill_workspace(table_, index_, config_, [&](const Choice& choice) {
      return planned_workspace(choice, config_, scenario_, options_, in_.ctx);
    });
    Progress progress(in_.console, "measure " + scenario_.name, "replacements", double(table_.rows.size()));
    for (size_t i = 0; i < table_.rows.size(); ++i) {
      const size_t before = known_.size();
      fill_costs(table_.rows[i], table_, index_, config_, [&](const Choice& choice) {
        if (choice.variant->no_op) return Runtime{};
        if (!known_.contains(key(choice))) known_[key(choice)] = time(choice);
        return known_[key(choice)].runtime;
      });
      if (known_.size() > before) save();
      stop_if_interrupted(fmt::format("behind what is measured of {}", scenario_.name));
      progress.update(double(i + 1));
    }
  }

  std::vector<PartTime> part_times() const {
    std::vector<PartTime> parts;
    for (const auto& [part, known] : known_) parts.push_back({{part.first, part.second}, known.runtime});
    return parts;
  }

  // What contradicts another time is taken once more, and the smaller of the two counts: disturbances only lengthen.
  void measure_odd_ones_again() {
    const std::vector<PartTime> parts = part_times();
    std::set<size_t> odd;
    for (const OddTime& one : odd_times(parts, config_, scenario_)) odd.insert(one.part);
    for (const size_t i : odd) {
      const Runtime before = parts[i].runtime;
      Known& known = known_[key(parts[i].choice)] = time(parts[i].choice);
      known.runtime = {std::min(before.prefill_seconds, known.runtime.prefill_seconds),
                       std::min(before.decode_seconds, known.runtime.decode_seconds)};
    }
    if (odd.empty()) return;
    for (TableRow& row : table_.rows)
      fill_costs(row, table_, index_, config_,
                 [&](const Choice& choice) { return choice.variant->no_op ? Runtime{} : known_[key(choice)].runtime; });
    source().prefill_error = source().decode_error = kMissing;  // so that whole models are compared with the new sums
    in_.console.say("measure {}: measured again, as it did not go with others: {} of {} kinds of subblocks",
                    scenario_.name, odd.size(), parts.size());
    save();
  }

  void name_odd_ones() {
    const std::vector<PartTime> parts = part_times();
    for (const OddTime& one : odd_times(parts, config_, scenario_)) {
      const auto seconds = [&](size_t i) {
        return format_seconds(one.is_decode ? parts[i].runtime.decode_seconds : parts[i].runtime.prefill_seconds);
      };
      in_.console.say("measure {}: {} of {} {} takes {}, and of {} only {}, measured again too: do not trust it",
                      scenario_.name, one.is_decode ? "decode" : "prefill",
                      name_of(parts[one.part].choice.variant->subblock), parts[one.part].choice.name(),
                      seconds(one.part), parts[one.beside].choice.name(), seconds(one.beside));
    }
  }

  // Whole models in place of the sums of their parts, where they fit.
  void compare_with_wholes() {
    std::vector<Runtime> sums, wholes;
    for (const Architecture& sample : sample_architectures(table_, config_)) {
      const double bytes = model_parameters(sample, config_) * double(size_of(scenario_.precision));
      if (bytes > 0.7 * double(memory_bytes(in_.ctx))) {
        in_.console.say("measure {}: a whole model of {} does not fit; sums of parts stay uncorrected", scenario_.name,
                        format_bytes(bytes));
        return;
      }
      sums.push_back(sum_of_parts(sample, table_, index_));
      wholes.push_back(
          time([&] { return measure_whole(sample, config_, scenario_, options_, in_.ctx).runtime; }).runtime);
    }
    learn_correction(source(), sums, wholes);
    save();
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
  std::map<Key, Known> known_;
  Known outside_;
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
