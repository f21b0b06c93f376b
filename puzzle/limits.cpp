#include "puzzle/limits.h"

#include <array>
#include <cmath>
#include <map>

namespace tangram {
namespace {

// What a row adds to the linear form behind a quantity: bytes, parameters, or seconds.
double cost_of(const TableRow& row, Quantity quantity, size_t scenario) {
  switch (quantity) {
    case Quantity::memory:
      return row.costs[scenario].weight_bytes + row.costs[scenario].kv_cache_bytes;
    case Quantity::parameters:
      return row.parameters;
    case Quantity::throughput:
    case Quantity::latency:
      return row.costs[scenario].prefill_seconds + row.costs[scenario].decode_seconds;
  }
  return kMissing;
}

double cost_outside(const ScoreTable& table, Quantity quantity, size_t scenario) {
  if (quantity == Quantity::parameters) return table.outside_parameters;
  const ScenarioCosts& outside = table.outside[scenario];
  if (quantity == Quantity::memory)
    return outside.weight_bytes + outside.kv_cache_bytes + table.workspace_bytes[scenario];
  return outside.prefill_seconds + outside.decode_seconds;
}

double output_tokens(const Scenario& scenario) {
  return static_cast<double>(scenario.concurrency) * static_cast<double>(scenario.output_tokens);
}

LinearLimit linear_limit(const ScoreTable& table, const Constraint& constraint, size_t scenario) {
  const Quantity quantity = constraint.quantity;
  LinearLimit limit{.name = std::string(name_of(quantity)),
                    .units = std::string(units_of(quantity)),
                    .maximum = constraint.bound,
                    .fixed = cost_outside(table, quantity, scenario)};
  if (quantity != Quantity::parameters) limit.name += fmt::format(" ({})", table.scenarios[scenario].name);
  if (!(constraint.bound > 0) || std::isinf(constraint.bound))
    throw bad_input("a limit on {} of {}; must be above 0", limit.name, constraint.bound);
  if (!std::isfinite(limit.fixed))
    throw bad_input("the score table has no {} of what is outside the blocks; it has not been measured", limit.name);
  if (constraint.relative) {
    const double teacher = figure(table, teacher_rows(table), quantity, scenario);
    if (!std::isfinite(teacher)) throw bad_input("the score table has no {} of the teacher", limit.name);
    limit.maximum *= teacher;
  }
  if (quantity == Quantity::throughput) {
    limit.tokens = output_tokens(table.scenarios[scenario]);
    limit.maximum = limit.tokens / limit.maximum;
  }
  return limit;
}

struct LimitSource {
  Quantity quantity;
  size_t scenario;
};

std::vector<int32_t> slots_of(const TableRow& row) {
  std::vector<int32_t> slots;
  for (int64_t layer = row.first_layer; layer < row.first_layer + row.layer_count; ++layer) {
    if (!row.attention.empty()) slots.push_back(slot_of(layer, Subblock::attention));
    if (!row.ffn.empty()) slots.push_back(slot_of(layer, Subblock::ffn));
  }
  return slots;
}

}  // namespace

std::string_view name_of(Quantity quantity) {
  constexpr std::array<std::string_view, 4> kNames = {"memory", "parameters", "throughput", "latency"};
  return kNames[static_cast<size_t>(quantity)];
}

std::string_view units_of(Quantity quantity) {
  constexpr std::array<std::string_view, 4> kUnits = {"bytes", "parameters", "tokens/s", "s"};
  return kUnits[static_cast<size_t>(quantity)];
}

double figure(const ScoreTable& table, std::span<const int64_t> rows, Quantity quantity, size_t scenario) {
  double total = cost_outside(table, quantity, scenario);
  for (const int64_t r : rows) total += cost_of(table.rows[static_cast<size_t>(r)], quantity, scenario);
  return quantity == Quantity::throughput ? output_tokens(table.scenarios[scenario]) / total : total;
}

std::vector<int64_t> teacher_rows(const ScoreTable& table) {
  std::vector<int64_t> of_slot(static_cast<size_t>(2 * table.layer_count), -1);
  for (size_t r = 0; r < table.rows.size(); ++r)
    if (table.rows[r].teacher) of_slot[static_cast<size_t>(slots_of(table.rows[r])[0])] = static_cast<int64_t>(r);
  for (size_t slot = 0; slot < of_slot.size(); ++slot)
    if (of_slot[slot] < 0)
      throw bad_input("the score table has no row for the teacher's own {} of layer {}",
                      name_of(slot % 2 == 0 ? Subblock::attention : Subblock::ffn), slot / 2);
  return of_slot;
}

TableProblem make_problem(const ScoreTable& table, const std::string& metric, std::span<const Constraint> constraints) {
  const size_t m = metric_index(table, metric);
  const double teacher = table.metrics[m].teacher, sign = table.metrics[m].higher_is_better ? -1 : 1;
  if (!std::isfinite(teacher)) throw bad_input("the score table has no {} of the teacher itself", metric);

  TableProblem made{.problem = {.layer_count = table.layer_count, .entries = {}, .limits = {}}, .left_out = {}};
  std::vector<LimitSource> sources;
  for (const Constraint& constraint : constraints) {
    size_t first = 0, last = 1;  // of the scenarios
    if (constraint.quantity != Quantity::parameters) {
      last = table.scenarios.size();
      if (!constraint.scenario.empty()) first = scenario_index(table, constraint.scenario), last = first + 1;
      if (last == 0)
        throw bad_input("a limit on {} needs a scenario, and the table has none", name_of(constraint.quantity));
    }
    for (size_t s = first; s < last; ++s) {
      made.problem.limits.push_back(linear_limit(table, constraint, s));
      sources.push_back({constraint.quantity, s});
    }
  }

  std::map<std::tuple<int64_t, std::string, std::string>, int32_t> kinds;
  for (size_t r = 0; r < table.rows.size(); ++r) {
    const TableRow& row = table.rows[r];
    const auto kind = static_cast<int32_t>(kinds.size());
    Entry entry{.row = static_cast<int64_t>(r),
                .kind = kinds.try_emplace({row.layer_count, row.attention, row.ffn}, kind).first->second,
                .slots = slots_of(row),
                .objective = row.teacher ? 0 : sign * (row.values[m] - teacher),
                .parameters = std::isnan(row.parameters) ? 0 : row.parameters};
    bool complete = std::isfinite(entry.objective);
    for (const LimitSource& source : sources) {
      entry.costs.push_back(cost_of(row, source.quantity, source.scenario));
      complete = complete && std::isfinite(entry.costs.back());
    }
    if (complete)
      made.problem.entries.push_back(std::move(entry));
    else
      made.left_out.push_back(static_cast<int64_t>(r));
  }
  return made;
}

double predicted(const TableMetric& metric, const Solution& solution) {
  return metric.teacher + (metric.higher_is_better ? -solution.objective : solution.objective);
}

}  // namespace tangram
