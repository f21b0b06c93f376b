#include "puzzle/resample.h"

#include <cmath>

#include "kernels/random.h"
#include "puzzle/one_search.h"

namespace tangram {

Resampled resample(const Problem& problem, const Solution& solution, std::span<const double> standard_errors,
                   const ResampleOptions& options) {
  check_problem(problem);
  if (standard_errors.size() != problem.entries.size())
    throw bad_input("{} standard errors for {} entries", standard_errors.size(), problem.entries.size());
  if (options.samples < 1) throw bad_input("{} samples; must be at least 1", options.samples);
  Problem drawn = problem;
  SolverOptions each = options.solver;
  each.known = {solution.entries}, each.prices = solution.prices;
  Resampled result{.samples = 0, .proven = 0, .changed = std::vector<double>(size_t(problem.layer_count))};
  for (int64_t s = 0; s < options.samples; ++s) {
    for (size_t i = 0; i < drawn.entries.size(); ++i) {
      const double error = std::isfinite(standard_errors[i]) ? standard_errors[i] : 0;
      const auto row = static_cast<uint64_t>(problem.entries[i].row);
      drawn.entries[i].objective =
          problem.entries[i].objective + error * random_normal(options.seed, static_cast<uint64_t>(s), row);
    }
    const OneResult found = search_one({.problem = drawn}, each);
    if (found.status != SolveStatus::optimal && found.status != SolveStatus::feasible) continue;
    ++result.samples;
    const double gap = found.value - found.bound;
    result.proven += gap <= each.gap * std::abs(found.value) * (1 + 1e-9);
    const std::vector<char> differs = layers_differing(problem, solution, found.solution);
    for (size_t l = 0; l < differs.size(); ++l) result.changed[l] += differs[l];
  }
  for (double& part : result.changed) part /= static_cast<double>(std::max<int64_t>(1, result.samples));
  return result;
}

}  // namespace tangram
