#pragma once
#include "puzzle/problem.h"

namespace tangram {

/// One search for one student, as `solve`, the frontier and the analysis of conflicts ask for it.
struct OneSearch {
  const Problem& problem;
  std::vector<Solution> differ_from = {};  ///< in at least least_difference layers
  int64_t least_difference = 0;
  int64_t nodes_at_most = std::numeric_limits<int64_t>::max();  ///< subproblems; CBC has its own
  bool is_excess = false;  ///< minimise the excess of the limits (see Nearest) in place of the objective
  double enough = -std::numeric_limits<double>::infinity();   ///< stop at a value no larger than this
  double hopeless = std::numeric_limits<double>::infinity();  ///< stop at a bound larger than this
};

struct OneResult {
  SolveStatus status = SolveStatus::not_found;
  Solution solution;  ///< if optimal or feasible; its bound is that of the objective
  double value = std::numeric_limits<double>::infinity();   ///< objective or excess
  double bound = -std::numeric_limits<double>::infinity();  ///< of the value
};

/// The best student, and proof. Of the options `count` and `min_difference` are unused. The problem must have been
/// checked.
OneResult search_one(const OneSearch& search, const SolverOptions& options);

/// The same, as a shortest path (puzzle/path_search.h). Every entry must lie within one layer or fill whole layers that
/// follow each other, as `fits_paths` says.
OneResult search_by_paths(const OneSearch& search, const SolverOptions& options);
bool fits_paths(const Problem& problem);

/// The same, as a 0-1 program for CBC: a row a slot, a limit, and what else is asked for; nothing is strengthened.
OneResult search_by_cbc(const OneSearch& search, const SolverOptions& options);

/// Entries in an order that depends on nothing but what they are.
std::vector<int32_t> sorted_entries(const Problem& problem);

}  // namespace tangram
