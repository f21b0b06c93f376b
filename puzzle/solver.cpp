#include "puzzle/solver.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "puzzle/conflicts.h"
#include "puzzle/one_search.h"

namespace tangram {

std::vector<int32_t> sorted_entries(const Problem& problem) {
  std::vector<int32_t> order(problem.entries.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const Entry &ea = problem.entries[static_cast<size_t>(a)], &eb = problem.entries[static_cast<size_t>(b)];
    return std::tie(ea.slots, ea.objective, ea.costs, ea.row) < std::tie(eb.slots, eb.objective, eb.costs, eb.row);
  });
  return order;
}

OneResult search_one(const OneSearch& search, const SolverOptions& options) {
  return options.plain || !fits_paths(search.problem) ? search_by_cbc(search, options)
                                                      : search_by_paths(search, options);
}

static void check_options(const Problem& problem, const SolverOptions& options) {
  if (options.count < 1 || !(options.min_difference >= 0 && options.min_difference <= 1))
    throw bad_input("{} solutions that differ in {} of the layers; must be at least 1, and a part from 0 to 1",
                    options.count, options.min_difference);
  if (options.nodes_more < 1)
    throw bad_input("{} subproblems for further solutions; must be at least 1", options.nodes_more);
  if (!(options.gap >= 0)) throw bad_input("a gap of {}; must be 0 or more", options.gap);
  if (!options.prices.empty() && options.prices.size() != problem.limits.size())
    throw bad_input("{} prices to begin from; there are {} limits", options.prices.size(), problem.limits.size());
  for (const double price : options.prices)
    if (!(price >= 0 && std::isfinite(price))) throw bad_input("a price of {} to begin from", price);
}

SolveResult solve(const Problem& problem, const SolverOptions& options) {
  check_problem(problem);
  check_options(problem, options);
  OneSearch search{.problem = problem};
  // A part such as 0.2 of 5 layers is 1 layer, though 0.2 * 5 may round to a little more.
  search.least_difference = std::max<int64_t>(
      1, static_cast<int64_t>(std::ceil(options.min_difference * double(problem.layer_count) - 1e-9)));
  SolverOptions each = options;
  SolveResult result{.status = SolveStatus::optimal, .solutions = {}};
  for (int64_t i = 0; i < options.count; ++i) {
    const OneResult found = search_one(search, each);
    if (found.status == SolveStatus::infeasible && i > 0) break;  // no more that differ enough
    if (found.status != SolveStatus::optimal)
      result.status = found.status == SolveStatus::not_found && i > 0 ? SolveStatus::feasible : found.status;
    if (found.status == SolveStatus::infeasible || found.status == SolveStatus::not_found) break;
    result.solutions.push_back(found.solution);
    search.differ_from.push_back(found.solution);
    search.nodes_at_most = options.nodes_more;
    each.prices = found.solution.prices;
  }
  if (result.status == SolveStatus::infeasible) analyse_conflicts(result, problem, options);
  return result;
}

}  // namespace tangram
