#include "puzzle/limits.h"

#include <algorithm>
#include <cmath>
#include <map>

namespace tangram {
namespace {

// What one part of a model, or what is outside of its blocks, adds to the linear form behind a quantity: bytes, or
// seconds.
double cost_of(const ScenarioCosts& costs, const CostSource& source, const Scenario& scenario, Quantity quantity) {
  const double prefill = source.prefill_factor * costs.prefill_seconds;
  const double decode = source.decode_factor * costs.decode_seconds;
  switch (quantity) {
    case Quantity::memory:
      return costs.weight_bytes + costs.kv_cache_bytes;
    case Quantity::kv_cache:
      return costs.kv_cache_bytes;
    case Quantity::throughput:
    case Quantity::latency:
      return prefill + decode;
    case Quantity::time_to_first_token:
      return prefill;
    case Quantity::time_per_output_token:
      return decode / double(std::max<int64_t>(scenario.output_tokens - 1, 1));  // the first comes from the prefill
    case Quantity::parameters:
      break;
  }
  return kMissing;
}

double cost_of(const ScoreTable& table, const TableRow& row, Quantity quantity, size_t scenario) {
  return quantity == Quantity::parameters
             ? row.parameters
             : cost_of(row.costs[scenario], table.sources[scenario], table.scenarios[scenario], quantity);
}

// Without workspace.
double cost_outside(const ScoreTable& table, Quantity quantity, size_t scenario) {
  if (quantity == Quantity::parameters) return table.outside_parameters;
  return cost_of(table.outside[scenario], table.sources[scenario], table.scenarios[scenario], quantity);
}

// Of a model made of these rows: of its largest one, or where not all are known, of the largest that there is.
double workspace_of(const ScoreTable& table, std::span<const int64_t> rows, size_t scenario) {
  double most = 0;
  for (const int64_t r : rows) {
    const double bytes = table.rows[static_cast<size_t>(r)].costs[scenario].workspace_bytes;
    if (std::isnan(bytes)) return table.workspace_bytes[scenario];
    most = std::max(most, bytes);
  }
  return rows.empty() ? table.workspace_bytes[scenario] : most;
}

// What an imported table must have for a limit on it, in words.
std::string_view needs_of(Quantity quantity) {
  switch (quantity) {
    case Quantity::memory:
      return "the imported table lacks a column weight_bytes";
    case Quantity::kv_cache:
      return "the imported table lacks a column kv_cache_bytes";
    case Quantity::throughput:
    case Quantity::latency:
      return "the imported table lacks a column prefill_seconds or decode_seconds (0 in all its lines if that takes "
             "no time)";
    case Quantity::time_to_first_token:
      return "the imported table lacks a column prefill_seconds";
    case Quantity::time_per_output_token:
      return "the imported table lacks a column decode_seconds";
    case Quantity::parameters:
      break;
  }
  return "the imported table lacks a column parameters";
}

// Output tokens of a scenario, for each device.
double output_tokens(const Scenario& scenario) {
  return double(scenario.concurrency) * double(scenario.output_tokens) / double(scenario.tensor_parallel);
}

LinearLimit linear_limit(const ScoreTable& table, const Constraint& constraint, size_t scenario) {
  const Quantity quantity = constraint.quantity;
  LinearLimit limit{.name = std::string(name_of(quantity)),
                    .units = std::string(units_of(quantity)),
                    .maximum = constraint.bound,
                    .fixed = cost_outside(table, quantity, scenario),
                    .moves = constraint.moves};
  if (quantity == Quantity::memory) limit.fixed += table.workspace_bytes[scenario];
  if (quantity != Quantity::parameters) limit.name += fmt::format(" ({})", table.scenarios[scenario].name);
  if (!(constraint.bound > 0) || std::isinf(constraint.bound))
    throw bad_input("a limit on {} of {}; must be above 0", limit.name, constraint.bound);
  if (!std::isfinite(limit.fixed))
    throw bad_input("the score table has no {} of what is outside the blocks: it has not been measured, or {}",
                    limit.name, needs_of(quantity));
  if (constraint.relative) {
    const double teacher = figure(table, teacher_rows(table), quantity, scenario);
    if (!std::isfinite(teacher)) throw bad_input("the score table has no {} of the teacher", limit.name);
    limit.maximum *= teacher;
    limit.teacher = teacher;
  }
  if (quantity == Quantity::throughput) {
    limit.tokens = output_tokens(table.scenarios[scenario]);
    limit.maximum = limit.tokens / limit.maximum;
    if (limit.teacher > 0) limit.teacher = limit.tokens / limit.teacher;
  }
  return limit;
}

// Whether a constraint is on this scenario, by its name or that of its group.
bool is_on(const Constraint& constraint, const Scenario& scenario) {
  return constraint.scenario.empty() || constraint.scenario == scenario.name || constraint.scenario == scenario.group();
}

struct LimitSource {
  Quantity quantity;
  size_t scenario;
};

}  // namespace

std::vector<int32_t> slots_of(const TableRow& row) {
  std::vector<int32_t> slots;
  for (int64_t layer = row.first_layer; layer < row.first_layer + row.layer_count; ++layer) {
    if (!row.attention.empty()) slots.push_back(slot_of(layer, Subblock::attention));
    if (!row.ffn.empty()) slots.push_back(slot_of(layer, Subblock::ffn));
  }
  return slots;
}

std::string_view name_of(Quantity quantity) {
  constexpr std::array<std::string_view, kQuantities.size()> kNames = {
      "memory", "parameters", "throughput", "latency", "time_to_first_token", "time_per_output_token", "kv_cache"};
  return kNames[static_cast<size_t>(quantity)];
}

std::string_view units_of(Quantity quantity) {
  constexpr std::array<std::string_view, kQuantities.size()> kUnits = {"bytes", "parameters", "tokens/s", "s",
                                                                       "s",     "s",          "bytes"};
  return kUnits[static_cast<size_t>(quantity)];
}

double figure(const ScoreTable& table, std::span<const int64_t> rows, Quantity quantity, size_t scenario) {
  double total = cost_outside(table, quantity, scenario);
  for (const int64_t r : rows) total += cost_of(table, table.rows[static_cast<size_t>(r)], quantity, scenario);
  if (quantity == Quantity::memory) total += workspace_of(table, rows, scenario);
  return quantity == Quantity::throughput ? output_tokens(table.scenarios[scenario]) / total : total;
}

double figure_error(const ScoreTable& table, std::span<const int64_t> rows, Quantity quantity, size_t scenario) {
  if (quantity == Quantity::memory || quantity == Quantity::parameters || quantity == Quantity::kv_cache) return 0;
  const CostSource& source = table.sources[scenario];
  if (quantity == Quantity::time_to_first_token) return source.prefill_error;
  if (quantity == Quantity::time_per_output_token) return source.decode_error;
  // Both are off in the same direction, mostly: their errors add up.
  const double all = figure(table, rows, Quantity::latency, scenario);
  const double prefill = figure(table, rows, Quantity::time_to_first_token, scenario);
  return (source.prefill_error * prefill + source.decode_error * (all - prefill)) / all;
}

std::vector<int64_t> teacher_rows(const ScoreTable& table) {
  std::vector<int64_t> of_slot(static_cast<size_t>(2 * table.layer_count), -1);
  for (size_t r = 0; r < table.rows.size(); ++r)
    if (table.rows[r].teacher)
      for (const int32_t slot : slots_of(table.rows[r])) of_slot[static_cast<size_t>(slot)] = static_cast<int64_t>(r);
  for (size_t slot = 0; slot < of_slot.size(); ++slot)
    if (of_slot[slot] < 0)
      throw bad_input("the score table has no row for the teacher's own {} of layer {}",
                      name_of(slot % 2 == 0 ? Subblock::attention : Subblock::ffn), slot / 2);
  of_slot.erase(std::unique(of_slot.begin(), of_slot.end()), of_slot.end());  // a block's row is that of two slots
  return of_slot;
}

std::vector<std::vector<size_t>> batch_choices(const ScoreTable& table, std::span<const Constraint> constraints) {
  constexpr size_t kMost = 1000;
  std::vector<std::string> groups;  // in the order of the table
  for (const Scenario& scenario : table.scenarios) {
    const bool limited = std::any_of(constraints.begin(), constraints.end(), [&](const Constraint& c) {
      return c.quantity != Quantity::parameters && is_on(c, scenario);
    });
    const std::string group(scenario.group());
    if (limited && std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
  }
  for (const Constraint& c : constraints)
    if (c.quantity != Quantity::parameters && !c.scenario.empty() &&
        std::none_of(table.scenarios.begin(), table.scenarios.end(), [&](const Scenario& s) { return is_on(c, s); }))
      scenario_index(table, c.scenario);  // throws, naming the known ones
  std::vector<std::vector<size_t>> choices = {{}};
  for (const std::string& group : groups) {
    std::vector<size_t> members, named;
    for (size_t s = 0; s < table.scenarios.size(); ++s) {
      if (table.scenarios[s].group() != group) continue;
      members.push_back(s);
      if (std::any_of(constraints.begin(), constraints.end(), [&](const Constraint& c) {
            return c.scenario != group && c.scenario == table.scenarios[s].name;
          }))
        named.push_back(s);
    }
    std::vector<std::vector<size_t>> longer;
    for (const std::vector<size_t>& choice : choices) {
      if (!named.empty()) {
        longer.push_back(choice), longer.back().insert(longer.back().end(), named.begin(), named.end());
        continue;
      }
      for (const size_t s : members) longer.push_back(choice), longer.back().push_back(s);
    }
    choices = std::move(longer);
    if (choices.size() > kMost)
      throw bad_input("more than {} ways to choose batch sizes; give fewer of them, or limit fewer scenarios", kMost);
  }
  return choices;
}

TableProblem make_problem(const ScoreTable& table, const std::string& metric, std::span<const Constraint> constraints,
                          std::span<const size_t> scenarios) {
  const size_t m = metric_index(table, metric);
  const double teacher = table.metrics[m].teacher, sign = table.metrics[m].higher_is_better ? -1 : 1;
  if (!std::isfinite(teacher)) throw bad_input("the score table has no {} of the teacher itself", metric);

  TableProblem made{.problem = {.layer_count = table.layer_count, .entries = {}, .limits = {}}, .left_out = {}};
  std::vector<LimitSource> sources;
  for (const Constraint& constraint : constraints) {
    bool is_on_any = false;
    const auto add = [&](size_t s) {
      is_on_any = true;
      const LinearLimit limit = linear_limit(table, constraint, s);
      for (size_t k = 0; k < sources.size(); ++k) {
        LinearLimit& other = made.problem.limits[k];
        if (sources[k].quantity != constraint.quantity || sources[k].scenario != s || other.moves || limit.moves)
          continue;
        if (limit.maximum < other.maximum) other = limit;
        return;
      }
      made.problem.limits.push_back(limit);
      sources.push_back({constraint.quantity, s});
    };
    if (constraint.quantity == Quantity::parameters) {
      add(0);
      continue;
    }
    for (const size_t s : scenarios)
      if (is_on(constraint, table.scenarios[s])) add(s);
    if (!is_on_any)
      throw bad_input("a limit on {} needs a scenario, and {}", name_of(constraint.quantity),
                      table.scenarios.empty() ? "the table has none" : "none is chosen for it");
  }

  std::map<std::tuple<int64_t, std::string, std::string>, int32_t> kinds;
  std::map<std::pair<Subblock, std::string>, int32_t> variants;
  const auto add_variant = [&](Entry& entry, Subblock subblock, const std::string& name) {
    if (name.empty()) return;
    const auto next = static_cast<int32_t>(variants.size());
    entry.variants.push_back(variants.try_emplace({subblock, name}, next).first->second);
  };
  for (size_t r = 0; r < table.rows.size(); ++r) {
    const TableRow& row = table.rows[r];
    const auto kind = static_cast<int32_t>(kinds.size());
    Entry entry{.row = static_cast<int64_t>(r),
                .kind = kinds.try_emplace({row.layer_count, row.attention, row.ffn}, kind).first->second,
                .slots = slots_of(row),
                .objective = row.teacher ? 0 : sign * (row.values[m] - teacher),
                .parameters = std::isnan(row.parameters) ? 0 : row.parameters};
    add_variant(entry, Subblock::attention, row.attention);
    add_variant(entry, Subblock::ffn, row.ffn);
    bool complete = std::isfinite(entry.objective);
    for (const LimitSource& source : sources) {
      entry.costs.push_back(cost_of(table, row, source.quantity, source.scenario));
      complete = complete && std::isfinite(entry.costs.back());
    }
    if (complete)
      made.problem.entries.push_back(std::move(entry));
    else
      made.left_out.push_back(static_cast<int64_t>(r));
  }
  return made;
}

TableProblem make_problem(const ScoreTable& table, const std::string& metric, std::span<const Constraint> constraints) {
  const std::vector<std::vector<size_t>> choices = batch_choices(table, constraints);
  if (choices.size() > 1) throw bad_input("{} batch sizes are open; each is a search of its own", choices.size());
  return make_problem(table, metric, constraints, choices[0]);
}

double predicted(const TableMetric& metric, const Solution& solution) {
  return metric.teacher + (metric.higher_is_better ? -solution.objective : solution.objective);
}

}  // namespace tangram
