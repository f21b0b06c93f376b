#include "puzzle/solver.h"

#include <Cbc_C_Interface.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kMostExclusions = 1000;

using Cbc = std::unique_ptr<Cbc_Model, decltype(&Cbc_deleteModel)>;

struct Row {
  std::vector<int> columns;
  std::vector<double> values;

  void add(int column, double value) { columns.push_back(column), values.push_back(value); }
};

void add_row(Cbc& cbc, const Row& row, char sense, double rhs) {
  Cbc_addRow(cbc.get(), "", static_cast<int>(row.columns.size()), row.columns.data(), row.values.data(), sense, rhs);
}

/// One 0-1 program: entries in the order of `order`, which limits count, what is minimised, and which earlier solutions
/// and which combinations are out of bounds.
struct Program {
  const Problem& problem;
  const std::vector<int32_t>& order;  // column -> entry
  std::vector<double> objective;      // (entries)
  std::vector<char> limited;          // (limits)  whether the limit counts
  std::vector<Solution> differ_from = {};
  int64_t least_difference = 0;  // layers
  double seconds_at_most = kInfinity;
  std::vector<std::vector<int32_t>> excluded = {};  // sets of entries that are not chosen together
};

struct Answer {
  SolveStatus status;
  std::vector<int32_t> entries;
  double bound;
};

// Typical size of the numbers: a few outliers of a thousand times that must not drown the others' differences.
double scale_of(std::vector<double> values) {
  std::erase_if(values, [](double v) { return v == 0; });
  if (values.empty()) return 1;
  for (double& v : values) v = std::abs(v);
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void add_slot_rows(Cbc& cbc, const Program& p) {
  std::vector<Row> rows(static_cast<size_t>(2 * p.problem.layer_count));
  for (size_t c = 0; c < p.order.size(); ++c)
    for (const int32_t slot : p.problem.entries[static_cast<size_t>(p.order[c])].slots)
      rows[static_cast<size_t>(slot)].add(static_cast<int>(c), 1);
  for (const Row& row : rows) add_row(cbc, row, 'E', 1);
}

void add_limit_rows(Cbc& cbc, const Program& p) {
  for (size_t k = 0; k < p.problem.limits.size(); ++k) {
    if (!p.limited[k]) continue;
    const LinearLimit& limit = p.problem.limits[k];
    Row row;
    double scale = 0;  // to the dearest entry, so that tolerances mean the same for bytes and seconds
    for (const Entry& entry : p.problem.entries) scale = std::max(scale, std::abs(entry.costs[k]));
    if (scale == 0) scale = 1;
    for (size_t c = 0; c < p.order.size(); ++c) {
      const double cost = p.problem.entries[static_cast<size_t>(p.order[c])].costs[k];
      if (cost != 0) row.add(static_cast<int>(c), cost / scale);
    }
    add_row(cbc, row, 'L', (limit.maximum - limit.fixed) / scale);
  }
}

// For each earlier solution: a layer counts 1 where the student has all of its entries there, and the layers' sum is at
// most layer_count - least_difference. For a layer of two entries the count is a variable s >= x_1 + x_2 - 1.
void add_difference_rows(Cbc& cbc, const Program& p, const std::vector<int>& column_of) {
  for (const Solution& earlier : p.differ_from) {
    std::vector<std::set<int>> columns_of_layer(static_cast<size_t>(p.problem.layer_count));
    for (const int32_t i : earlier.entries)
      for (const int32_t slot : p.problem.entries[static_cast<size_t>(i)].slots)
        columns_of_layer[static_cast<size_t>(layer_of(slot))].insert(column_of[static_cast<size_t>(i)]);
    std::map<int, double> equal_layers;  // a span counts for several
    for (const std::set<int>& columns : columns_of_layer) {
      if (columns.size() == 1) {
        equal_layers[*columns.begin()] += 1;
        continue;
      }
      const int s = Cbc_getNumCols(cbc.get());
      Cbc_addCol(cbc.get(), "", 0, 1, 0, 0, 0, nullptr, nullptr);
      equal_layers[s] = 1;
      Row row;
      for (const int column : columns) row.add(column, 1);
      row.add(s, -1);
      add_row(cbc, row, 'L', 1);
    }
    Row row;
    for (const auto& [column, layers] : equal_layers) row.add(column, layers);
    add_row(cbc, row, 'L', static_cast<double>(p.problem.layer_count - p.least_difference));
  }
}

Cbc make_cbc(const Program& p, double objective_scale) {
  Cbc cbc(Cbc_newModel(), Cbc_deleteModel);
  std::vector<int> column_of(p.problem.entries.size());
  for (size_t c = 0; c < p.order.size(); ++c) {
    const auto entry = static_cast<size_t>(p.order[c]);
    column_of[entry] = static_cast<int>(c);
    Cbc_addCol(cbc.get(), "", 0, 1, p.objective[entry] / objective_scale, 1, 0, nullptr, nullptr);
  }
  add_slot_rows(cbc, p);
  add_limit_rows(cbc, p);
  add_difference_rows(cbc, p, column_of);
  for (const std::vector<int32_t>& entries : p.excluded) {
    Row row;
    for (const int32_t entry : entries) row.add(column_of[static_cast<size_t>(entry)], 1);
    add_row(cbc, row, 'L', static_cast<double>(entries.size()) - 1);
  }
  return cbc;
}

Answer run_cbc(const Program& p) {
  const double scale = scale_of(p.objective);
  const Cbc cbc = make_cbc(p, scale);
  const auto set = [&](const char* name, const std::string& value) {
    Cbc_setParameter(cbc.get(), name, value.c_str());
  };
  set("log", "0"), set("slog", "0");
  set("randomCbcSeed", "1"), set("randomSeed", "1");
  // Its preprocessing of integers proves wrong optima of about one small random problem in a thousand (2.10.8), and
  // cuts take longer than they save on these.
  set("preprocess", "off"), set("cuts", "off");
  set("ratioGap", "0"), set("allowableGap", "0");
  set("increment", "1e-9");  // the default would skip whatever is less than 1e-5 better
  set("primalT", "1e-9"), set("dualT", "1e-9"), set("integerT", "1e-9");
  if (std::isfinite(p.seconds_at_most)) set("timeMode", "elapsed"), set("sec", fmt::format("{}", p.seconds_at_most));
  Cbc_solve(cbc.get());

  if (Cbc_isProvenInfeasible(cbc.get())) return {SolveStatus::infeasible, {}, kInfinity};
  const double* x = Cbc_bestSolution(cbc.get());
  const bool proven = Cbc_isProvenOptimal(cbc.get());
  CHECK(x || !proven, "CBC proved a solution that it does not give");
  Answer answer{proven ? SolveStatus::optimal : SolveStatus::feasible, {}, 0};
  if (!x) return {SolveStatus::not_found, {}, -kInfinity};
  for (size_t c = 0; c < p.order.size(); ++c)
    if (x[c] > 0.5) answer.entries.push_back(p.order[c]);
  answer.bound = Cbc_getBestPossibleObjValue(cbc.get()) * scale;
  return answer;
}

/// The best combination that keeps the limits that count, to the last digit.
SolveStatus solve_program(Solution& solution, Program& p) {
  for (int i = 0; i < kMostExclusions; ++i) {
    const Answer answer = run_cbc(p);
    if (answer.entries.empty()) return answer.status;
    solution = evaluate(p.problem, answer.entries);
    solution.bound = answer.status == SolveStatus::optimal ? solution.objective : answer.bound;
    bool kept = true;
    for (size_t k = 0; k < p.limited.size(); ++k)
      kept = kept && (!p.limited[k] || keeps(p.problem.limits[k], solution.totals[k]));
    if (kept) return answer.status;
    p.excluded.push_back(answer.entries);
  }
  return SolveStatus::not_found;
}

// Entries in an order that depends on nothing but what they are.
std::vector<int32_t> sorted_entries(const Problem& problem) {
  std::vector<int32_t> order(problem.entries.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const Entry &ea = problem.entries[static_cast<size_t>(a)], &eb = problem.entries[static_cast<size_t>(b)];
    return std::tie(ea.slots, ea.objective, ea.costs, ea.row) < std::tie(eb.slots, eb.objective, eb.costs, eb.row);
  });
  return order;
}

double smallest_total(const Problem& problem, const std::vector<int32_t>& order, size_t k, bool with_others,
                      double seconds_at_most) {
  Program p{.problem = problem, .order = order, .objective = {}, .limited = std::vector<char>(problem.limits.size())};
  for (size_t other = 0; other < p.limited.size(); ++other) p.limited[other] = with_others && other != k;
  for (const Entry& entry : problem.entries) p.objective.push_back(entry.costs[k]);
  p.seconds_at_most = seconds_at_most;
  Solution solution;
  const SolveStatus status = solve_program(solution, p);
  return status == SolveStatus::optimal || status == SolveStatus::feasible ? solution.totals[k] : kInfinity;
}

std::vector<Conflict> find_conflicts(const Problem& problem, const std::vector<int32_t>& order,
                                     double seconds_at_most) {
  std::vector<Conflict> conflicts;
  for (size_t k = 0; k < problem.limits.size(); ++k)
    conflicts.push_back({smallest_total(problem, order, k, false, seconds_at_most),
                         smallest_total(problem, order, k, true, seconds_at_most)});
  return conflicts;
}

}  // namespace

SolveResult solve(const Problem& problem, const SolverOptions& options) {
  check_problem(problem);
  if (options.count < 1 || !(options.min_difference >= 0 && options.min_difference <= 1))
    throw bad_input("{} solutions that differ in {} of the layers; must be at least 1, and a part from 0 to 1",
                    options.count, options.min_difference);
  const std::vector<int32_t> order = sorted_entries(problem);
  Program p{.problem = problem,
            .order = order,
            .objective = {},
            .limited = std::vector<char>(problem.limits.size(), 1),
            .seconds_at_most = options.seconds_at_most};
  for (const Entry& entry : problem.entries) p.objective.push_back(entry.objective);
  // A part such as 0.2 of 5 layers is 1 layer, though 0.2 * 5 may round to a little more.
  p.least_difference = std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(options.min_difference * double(problem.layer_count) - 1e-9)));

  SolveResult result{.status = SolveStatus::optimal, .solutions = {}, .conflicts = {}};
  for (int64_t i = 0; i < options.count; ++i) {
    Solution solution;
    const SolveStatus status = solve_program(solution, p);
    if (status == SolveStatus::infeasible && i > 0) break;  // no more that differ enough
    if (status != SolveStatus::optimal)
      result.status = status == SolveStatus::not_found && i > 0 ? SolveStatus::feasible : status;
    if (status == SolveStatus::optimal || status == SolveStatus::feasible) result.solutions.push_back(solution);
    if (status != SolveStatus::optimal) break;
    p.differ_from.push_back(std::move(solution));
  }
  if (result.status == SolveStatus::infeasible)
    result.conflicts = find_conflicts(problem, order, options.seconds_at_most);
  return result;
}

}  // namespace tangram
