#pragma once
#include "puzzle/network.h"

namespace tangram {

/// What is to be bounded from below over all paths of a network:
///
///   minimise  objective                       where  costs[k] <= capacity[k]                    (slack empty)
///   minimise  t >= 0                          where  costs[k] <= capacity[k] + t * slack[k]     (otherwise)
struct DualOptions {
  std::vector<double> slack = {};                               // (rows)  > 0; the network's objective must then be 0
  double stop_above = std::numeric_limits<double>::infinity();  ///< a bound beyond this is enough
  int steps_at_most = 400;
  double tolerance = 1e-9;  ///< of the distance between the best bound and what the relaxation can still give
};

/// The Lagrangian bound  max_{u >= 0}  min_path objective + u . (costs - capacity),  which is that of the linear
/// relaxation, and the paths whose convex combination attains it.
struct Dual {
  double bound = -std::numeric_limits<double>::infinity();  ///< less what rounding may have added: nothing is below it
  std::vector<double> multipliers;                          // (rows)  of the bound
  std::vector<Path> paths;                                  ///< those of the combination
  std::vector<double> parts;                                // (paths)
};

/// Maximises the bound by cutting planes: the master program over the paths found so far, one row a limit and one for
/// the sum of parts, is solved by a dense simplex; its duals weigh the arcs for the next lightest path (Dantzig & Wolfe
/// 1960). Weights are taken between the best multipliers so far and the master's, which keeps them from swinging
/// (Wentges 1997). `start` are multipliers to begin with, `known` paths to begin from, and `seen` is called with every
/// path that is found.
Dual maximise_bound(const Network& network, const DualOptions& options, std::span<const double> start,
                    std::vector<Path> known, const std::function<void(const Path&)>& seen);

/// The bound that multipliers give: the lightest path's weight less u . capacity, less what rounding may have added.
double bound_of(const Network& network, std::span<const double> multipliers, double lightest, const Path& path);

}  // namespace tangram
