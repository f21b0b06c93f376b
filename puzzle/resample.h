#pragma once
#include <span>

#include "puzzle/problem.h"

namespace tangram {

struct ResampleOptions {
  int64_t samples = 100;
  uint64_t seed = 0;
  SolverOptions solver = {.gap = 1e-3};  ///< for each sample; `count`, `known` and `prices` are unused
};

/// How much of a solution depends on the noise of the scores.
struct Resampled {
  int64_t samples = 0;          ///< that were solved
  int64_t proven = 0;           ///< of these, to the optimum (within the solver's gap, if it has one)
  std::vector<double> changed;  ///< (layers)  part of the samples whose choice differs from the solution's
};

/// Solves the problem again and again, each time with scores drawn from normal distributions around the entries'
/// objectives, independently, and compares with `solution`, which is where each search begins from. `standard_errors`
/// has one for each entry; one that is not finite counts as 0. The same seed gives the same samples, whatever their
/// number and the order of entries: a draw depends on the seed, the sample and the entry's row.
Resampled resample(const Problem& problem, const Solution& solution, std::span<const double> standard_errors,
                   const ResampleOptions& options);

}  // namespace tangram
