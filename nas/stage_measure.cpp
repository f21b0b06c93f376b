#include <map>
#include <tuple>

#include "nas/run_files.h"
#include "nas/stages.h"
#include "puzzle/costs.h"
#include "puzzle/measure.h"
#include "puzzle/score_table.h"

namespace tangram {
namespace {

// Layers of one model have equal shapes, so a variant is measured once for all of them.
class Measurements {
 public:
  Measurements(const ModelConfig& config, const Scenario& scenario, const MeasureOptions& options, Context& ctx)
      : config_(config), scenario_(scenario), options_(options), ctx_(ctx) {}

  Runtime of(const Choice& choice) {
    const auto key = std::pair(choice.variant, choice.size);
    if (const auto known = known_.find(key); known != known_.end()) return known->second;
    return known_[key] = measure_subblock(choice, config_, scenario_, options_, ctx_);
  }
  bool knows(const Choice& choice) const { return known_.count({choice.variant, choice.size}) > 0; }
  void remember(const Choice& choice, const Runtime& runtime) { known_[{choice.variant, choice.size}] = runtime; }

 private:
  const ModelConfig& config_;
  const Scenario& scenario_;
  MeasureOptions options_;
  Context& ctx_;
  std::map<std::pair<const Variant*, int64_t>, Runtime> known_;
};

std::vector<Choice> choices_of(const Replacement& r) {
  std::vector<Choice> choices;
  for (Subblock s : {Subblock::attention, Subblock::ffn})
    if (r.of(s)) choices.push_back(*r.of(s));
  return choices;
}

bool is_measured(const ScenarioCosts& costs) { return costs.prefill_seconds == costs.prefill_seconds; }  // not NaN

void fill_row(TableRow& row, const ModelConfig& config, const Scenario& scenario, size_t index, Measurements& times) {
  ScenarioCosts costs{.weight_bytes = 0, .kv_cache_bytes = 0, .prefill_seconds = 0, .decode_seconds = 0};
  row.parameters = 0;
  for (const Choice& choice : choices_of(replacement_of(row, config))) {
    const Runtime runtime = times.of(choice);
    row.parameters += weight_bytes(choice, config, scenario.precision) / double(size_of(scenario.precision));
    costs.weight_bytes += weight_bytes(choice, config, scenario.precision);
    costs.kv_cache_bytes += kv_cache_bytes(choice, config, scenario);
    costs.prefill_seconds += runtime.prefill_seconds;
    costs.decode_seconds += runtime.decode_seconds;
  }
  row.costs[index] = costs;
}

// What an earlier measurement left in the table counts: it was paid for.
void remember_measured(Measurements& times, const ScoreTable& table, size_t index, const ModelConfig& config) {
  for (const TableRow& row : table.rows) {
    const std::vector<Choice> choices = choices_of(replacement_of(row, config));
    const ScenarioCosts& costs = row.costs[index];
    if (choices.size() == 1 && is_measured(costs))
      times.remember(choices[0], {costs.prefill_seconds, costs.decode_seconds});
  }
}

void measure_scenario(ScoreTable& table, const Scenario& scenario, const ModelConfig& config, const StageInput& in) {
  const MeasureOptions options;
  const size_t index = add_scenario(table, scenario);
  Measurements times(config, scenario, options, in.ctx);
  remember_measured(times, table, index, config);
  if (!is_measured(table.outside[index])) {
    const Runtime runtime = measure_outside(config, scenario, options, in.ctx);
    table.outside[index] = {.weight_bytes = outside_parameters(config) * double(size_of(scenario.precision)),
                            .kv_cache_bytes = 0,
                            .prefill_seconds = runtime.prefill_seconds,
                            .decode_seconds = runtime.decode_seconds};
  }
  table.workspace_bytes[index] = workspace_bytes(config, scenario, options.prefill_tokens_at_most);
  Progress progress(in.console, "measure " + scenario.name, "replacements", double(table.rows.size()));
  for (size_t i = 0; i < table.rows.size(); ++i) {
    bool measured_now = false;
    for (const Choice& choice : choices_of(replacement_of(table.rows[i], config))) measured_now |= !times.knows(choice);
    fill_row(table.rows[i], config, scenario, index, times);
    if (measured_now) write_scores(table, scores_path(in.run_dir));
    progress.update(double(i + 1));
  }
}

}  // namespace

std::vector<std::filesystem::path> run_measure(const StageInput& in) {
  const Model teacher = load_teacher(in.config, in.run_dir, in.config.distill.training.dtype);
  ScoreTable table = read_scores(scores_path(in.run_dir));
  table.outside_parameters = outside_parameters(teacher.config);
  for (const Scenario& scenario : in.config.scenarios) measure_scenario(table, scenario, teacher.config, in);
  write_scores(table, scores_path(in.run_dir));
  return {scores_path(in.run_dir)};
}

}  // namespace tangram
