#include <Cbc_C_Interface.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "puzzle/one_search.h"

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

struct Answer {
  SolveStatus status;
  std::vector<int32_t> entries;
  double bound;
};

// Typical size of the numbers: a few outliers of a thousand times must not drown the others' differences.
double scale_of(std::vector<double> values) {
  std::erase_if(values, [](double v) { return v == 0; });
  if (values.empty()) return 1;
  for (double& v : values) v = std::abs(v);
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// The 0-1 program of a search: a column an entry, in sorted order, and those that its rows need.
class Program {
 public:
  Program(const OneSearch& search, const std::vector<std::vector<int32_t>>& excluded)
      : search_(search),
        problem_(search.problem),
        order_(sorted_entries(problem_)),
        cbc_(Cbc_newModel(), Cbc_deleteModel) {
    std::vector<double> objective;
    for (const Entry& entry : problem_.entries) objective.push_back(entry.objective);
    scale_ = search.is_excess ? 1 : scale_of(objective);
    column_of_.resize(order_.size());
    for (size_t c = 0; c < order_.size(); ++c) {
      const auto entry = static_cast<size_t>(order_[c]);
      column_of_[entry] = static_cast<int>(c);
      add_column(search.is_excess ? 0 : objective[entry] / scale_, 1, true);
    }
    if (search.is_excess) excess_ = add_column(1, kInfinity, false);
    add_slot_rows();
    for (size_t k = 0; k < problem_.limits.size(); ++k) add_limit_row(k);
    for (const Solution& earlier : search.differ_from) add_difference_rows(earlier);
    if (problem_.most_variants > 0) add_variant_rows();
    for (const std::vector<int32_t>& entries : excluded) {
      Row row;
      for (const int32_t entry : entries) row.add(column_of_[static_cast<size_t>(entry)], 1);
      add_row(row, 'L', static_cast<double>(entries.size()) - 1);
    }
  }

  Answer run(double seconds_at_most);

 private:
  int add_column(double objective, double most, bool is_whole) {
    const int column = Cbc_getNumCols(cbc_.get());
    Cbc_addCol(cbc_.get(), "", 0, most, objective, is_whole, 0, nullptr, nullptr);
    return column;
  }

  void add_row(const Row& row, char sense, double rhs) {
    Cbc_addRow(cbc_.get(), "", static_cast<int>(row.columns.size()), row.columns.data(), row.values.data(), sense, rhs);
  }

  void add_slot_rows() {
    std::vector<Row> rows(static_cast<size_t>(2 * problem_.layer_count));
    for (size_t c = 0; c < order_.size(); ++c)
      for (const int32_t slot : problem_.entries[static_cast<size_t>(order_[c])].slots)
        rows[static_cast<size_t>(slot)].add(static_cast<int>(c), 1);
    for (const Row& row : rows) add_row(row, 'E', 1);
  }

  void add_limit_row(size_t k) {
    const LinearLimit& limit = problem_.limits[k];
    Row row;
    double scale = 0;  // to the dearest entry, so that tolerances mean the same for bytes and seconds
    for (const Entry& entry : problem_.entries) scale = std::max(scale, std::abs(entry.costs[k]));
    if (scale == 0) scale = 1;
    for (size_t c = 0; c < order_.size(); ++c) {
      const double cost = problem_.entries[static_cast<size_t>(order_[c])].costs[k];
      if (cost != 0) row.add(static_cast<int>(c), cost / scale);
    }
    if (excess_ >= 0) row.add(excess_, -unit_of_excess(problem_, k) / scale);
    add_row(row, 'L', (limit.maximum - limit.fixed) / scale);
  }

  // A layer counts 1 where the student has all of the earlier one's entries there, and the layers' sum is at most
  // layer_count - least_difference. For a layer of two entries the count is a variable s >= x_1 + x_2 - 1.
  void add_difference_rows(const Solution& earlier) {
    std::vector<std::set<int>> columns_of_layer(static_cast<size_t>(problem_.layer_count));
    for (const int32_t i : earlier.entries)
      for (const int32_t slot : problem_.entries[static_cast<size_t>(i)].slots)
        columns_of_layer[static_cast<size_t>(layer_of(slot))].insert(column_of_[static_cast<size_t>(i)]);
    std::map<int, double> equal_layers;  // a span counts for several
    for (const std::set<int>& columns : columns_of_layer) {
      if (columns.size() == 1) {
        equal_layers[*columns.begin()] += 1;
        continue;
      }
      const int s = add_column(0, 1, false);
      equal_layers[s] = 1;
      Row row;
      for (const int column : columns) row.add(column, 1);
      row.add(s, -1);
      add_row(row, 'L', 1);
    }
    Row row;
    for (const auto& [column, layers] : equal_layers) row.add(column, layers);
    add_row(row, 'L', static_cast<double>(problem_.layer_count - search_.least_difference));
  }

  // x <= y for every variant of an entry, and at most so many y.
  void add_variant_rows() {
    std::map<int32_t, int> column_of_variant;
    for (const int32_t e : order_)
      for (const int32_t v : problem_.entries[static_cast<size_t>(e)].variants) {
        const auto [known, is_new] = column_of_variant.try_emplace(v, 0);
        if (is_new) known->second = add_column(0, 1, true);
        Row row;
        row.add(column_of_[static_cast<size_t>(e)], 1), row.add(known->second, -1);
        add_row(row, 'L', 0);
      }
    Row row;
    for (const auto& [v, column] : column_of_variant) row.add(column, 1);
    add_row(row, 'L', static_cast<double>(problem_.most_variants));
  }

  const OneSearch& search_;
  const Problem& problem_;
  const std::vector<int32_t> order_;  // column -> entry
  std::vector<int> column_of_;        // (entries)
  Cbc cbc_;
  double scale_ = 1;
  int excess_ = -1;  // column
};

Answer Program::run(double seconds_at_most) {
  const auto set = [&](const char* name, const std::string& value) {
    Cbc_setParameter(cbc_.get(), name, value.c_str());
  };
  set("log", "0"), set("slog", "0");
  set("randomCbcSeed", "1"), set("randomSeed", "1");
  // Its preprocessing of integers proves wrong optima of about one small random problem in a thousand (2.10.8), and
  // cuts take longer than they save on these.
  set("preprocess", "off"), set("cuts", "off");
  set("ratioGap", "0"), set("allowableGap", "0");
  set("increment", "1e-9");  // the default would skip whatever is less than 1e-5 better
  set("primalT", "1e-9"), set("dualT", "1e-9"), set("integerT", "1e-9");
  if (std::isfinite(seconds_at_most)) set("timeMode", "elapsed"), set("sec", fmt::format("{}", seconds_at_most));
  Cbc_solve(cbc_.get());

  if (Cbc_isProvenInfeasible(cbc_.get())) return {SolveStatus::infeasible, {}, kInfinity};
  const double* x = Cbc_bestSolution(cbc_.get());
  const bool proven = Cbc_isProvenOptimal(cbc_.get());
  CHECK(x || !proven, "CBC proved a solution that it does not give");
  Answer answer{proven ? SolveStatus::optimal : SolveStatus::feasible, {}, 0};
  if (!x) return {SolveStatus::not_found, {}, -kInfinity};
  for (size_t c = 0; c < order_.size(); ++c)
    if (x[c] > 0.5) answer.entries.push_back(order_[c]);
  answer.bound = Cbc_getBestPossibleObjValue(cbc_.get()) * scale_;
  return answer;
}

}  // namespace

OneResult search_by_cbc(const OneSearch& search, const SolverOptions& options) {
  OneResult result;
  std::vector<std::vector<int32_t>> excluded;
  for (int i = 0; i < kMostExclusions; ++i) {
    const Answer answer = Program(search, excluded).run(options.seconds_at_most);
    result.status = answer.status, result.bound = answer.bound;
    if (answer.entries.empty()) return result;
    result.solution = evaluate(search.problem, answer.entries);
    const bool proven = answer.status == SolveStatus::optimal;
    result.value = search.is_excess ? excess_of(search.problem, result.solution) : result.solution.objective;
    if (proven) result.bound = result.value;
    if (!search.is_excess) result.solution.bound = result.bound;
    if (search.is_excess || is_allowed(search.problem, result.solution)) return result;
    excluded.push_back(answer.entries);
  }
  return {};
}

}  // namespace tangram
