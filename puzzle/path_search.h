#pragma once
#include <chrono>

#include "puzzle/lagrangian.h"

namespace tangram {

struct PathSearchOptions {
  std::vector<double> slack = {};                               ///< see DualOptions; the value of a path is then its t
  std::vector<double> multipliers = {};                         ///< to begin with; none: 0
  int64_t nodes_at_most = std::numeric_limits<int64_t>::max();  ///< see PathSearchResult
  double gap = 0;                                               ///< a value within this part of the bound will do
  double enough = -std::numeric_limits<double>::infinity();     ///< a value no larger will do
  double hopeless = std::numeric_limits<double>::infinity();    ///< a bound larger than this will do
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

struct PathSearchResult {
  double value = std::numeric_limits<double>::infinity();  ///< of the best path; infinity if none was found
  double bound = std::numeric_limits<double>::infinity();  ///< nothing is better; infinity: there is no path
  std::vector<int32_t> ids;                                ///< of the best path's arcs
  std::vector<double> multipliers;                         ///< of the first bound: a start for problems like this one
  int64_t nodes = 0;                                       ///< subproblems that were bounded
};

/// The exact value of a path given by the ids of its arcs, infinity if it is not allowed after all; and the size of
/// what was added up, which sets how far two values may differ and still count as equal: 1e-12 of it.
struct Judged {
  double value, size;
};
using Judge = std::function<Judged(const std::vector<int32_t>&)>;

/// The best path that keeps every row, by branch and bound. Lagrangian bounds remove the arcs that no better path can
/// take, swaps of one and two arcs improve what the relaxation finds, and the arcs over a layer on which its paths
/// disagree are then parted in two, dear and cheap, always where the bound is lowest. Where a path may use only so many
/// variants, one variant after the other is first forbidden or chosen. `known` are paths to begin from, as ids.
PathSearchResult search_paths(const Network& network, const PathSearchOptions& options, const Judge& judge,
                              const std::vector<std::vector<int32_t>>& known = {});

}  // namespace tangram
