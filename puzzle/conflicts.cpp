#include "puzzle/conflicts.h"

#include "puzzle/one_search.h"

namespace tangram {
namespace {

constexpr int64_t kNodes = 30'000;  // of each search: an answer without proof is better than a late one

// The same problem under some of its limits only.
Problem under_limits(const Problem& problem, const std::vector<char>& counts) {
  Problem other = problem;
  other.limits.clear();
  for (size_t k = 0; k < counts.size(); ++k)
    if (counts[k]) other.limits.push_back(problem.limits[k]);
  for (size_t i = 0; i < other.entries.size(); ++i) {
    other.entries[i].costs.clear();
    for (size_t k = 0; k < counts.size(); ++k)
      if (counts[k]) other.entries[i].costs.push_back(problem.entries[i].costs[k]);
  }
  return other;
}

struct Smallest {
  double total = std::numeric_limits<double>::infinity();
  bool is_proven = true;
};

Smallest smallest_total(const Problem& problem, size_t k, bool with_others, const SolverOptions& options) {
  std::vector<char> counts(problem.limits.size(), with_others);
  counts[k] = 0;
  Problem other = under_limits(problem, counts);
  for (size_t i = 0; i < other.entries.size(); ++i) other.entries[i].objective = problem.entries[i].costs[k];
  const OneResult found = search_one({.problem = other, .nodes_at_most = kNodes}, options);
  Smallest smallest;
  smallest.is_proven = found.status == SolveStatus::optimal || found.status == SolveStatus::infeasible;
  if (found.status == SolveStatus::optimal || found.status == SolveStatus::feasible)
    smallest.total = evaluate(problem, found.solution.entries).totals[k];
  return smallest;
}

enum class Attainable : uint8_t { yes, no, unknown };

Attainable is_attainable(const Problem& problem, const SolverOptions& options) {
  const OneResult found =
      search_one({.problem = problem, .nodes_at_most = kNodes, .is_excess = true, .enough = 0, .hopeless = 0}, options);
  if (found.value <= 0) return Attainable::yes;
  return found.status == SolveStatus::infeasible || found.bound > 0 ? Attainable::no : Attainable::unknown;
}

// Leaves out one limit after the other, for good where the rest still exclude each other.
void find_irreducible_set(SolveResult& result, const Problem& problem, const SolverOptions& options) {
  std::vector<char> counts(problem.limits.size(), 1);
  Problem left = problem;
  result.most_variants_is_needed = problem.most_variants > 0;
  const auto is_spared = [&] {
    Problem reduced = under_limits(left, counts);
    const Attainable attainable = is_attainable(reduced, options);
    if (attainable == Attainable::unknown) result.conflicts_are_proven = false;
    return attainable == Attainable::no;
  };
  if (left.most_variants > 0) {
    left.most_variants = 0;
    if (is_spared())
      result.most_variants_is_needed = false;
    else
      left.most_variants = problem.most_variants;
  }
  for (size_t k = 0; k < counts.size(); ++k) {
    counts[k] = 0;
    if (!is_spared()) counts[k] = 1;
    result.conflicts[k].is_needed = counts[k];
  }
}

}  // namespace

void analyse_conflicts(SolveResult& result, const Problem& problem, const SolverOptions& options) {
  SolverOptions plain = options;  // none of these problems is much like the one asked for
  plain.known.clear(), plain.prices.clear(), plain.gap = 0;
  for (size_t k = 0; k < problem.limits.size(); ++k) {
    const Smallest alone = smallest_total(problem, k, false, plain), beside = smallest_total(problem, k, true, plain);
    result.conflicts.push_back({.smallest = alone.total,
                                .smallest_with_others = beside.total,
                                .is_proven = alone.is_proven && beside.is_proven});
  }
  find_irreducible_set(result, problem, plain);
  const OneResult nearest =
      search_one({.problem = problem, .nodes_at_most = kNodes, .is_excess = true, .enough = 0}, plain);
  result.nearest.bound = nearest.bound;
  if (nearest.status == SolveStatus::infeasible || nearest.status == SolveStatus::not_found) return;
  result.nearest.solution.push_back(nearest.solution);
  result.nearest.excess = nearest.value;
}

}  // namespace tangram
