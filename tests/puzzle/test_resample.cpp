#include "puzzle/resample.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "puzzle/solver.h"
#include "random_problem.h"

namespace tangram {
namespace {

TEST(ResampleTest, ExactScoresNeverChange) {
  const Problem problem = random_problem({.layers = 6, .limits = 2, .tightness = 0.4}, 1);
  const std::vector<double> none(problem.entries.size(), 0), unknown(problem.entries.size(), NAN);
  const Solution solution = solve(problem).solutions.at(0);
  for (const auto& errors : {none, unknown}) {
    const Resampled r = resample(problem, solution, errors, {.samples = 10});
    EXPECT_EQ(r.samples, 10);
    EXPECT_EQ(r.proven, 10);
    EXPECT_EQ(r.changed, std::vector<double>(6, 0.0));
  }
}

// In layer 0 two entries are 1 apart with errors 0.6 and 0.8, whose difference has error 1: it turns with probability
// Phi(-1) = 0.15866. In layer 1 nothing is uncertain.
TEST(ResampleTest, ChangesAsOftenAsTheNormalDistributionSays) {
  Problem problem{.layer_count = 2, .entries = {}, .limits = {}};
  problem.entries = {{.row = 0, .slots = {0, 1}, .objective = 3},
                     {.row = 1, .slots = {0, 1}, .objective = 4},
                     {.row = 2, .slots = {2, 3}, .objective = 1},
                     {.row = 3, .slots = {2, 3}, .objective = 2}};
  const Solution solution = solve(problem).solutions.at(0);
  const std::vector<double> errors = {0.6, 0.8, 0, 0};
  const Resampled r = resample(problem, solution, errors, {.samples = 10000, .seed = 5, .solver = {}});
  EXPECT_NEAR(r.changed[0], 0.15866, 4 * std::sqrt(0.15866 * 0.84134 / 10000));  // four standard deviations
  EXPECT_EQ(r.changed[1], 0);
}

TEST(ResampleTest, DependsOnTheSeedAndNotOnTheOrderOfEntries) {
  Problem problem = random_problem({.layers = 6, .limits = 2, .tightness = 0.4}, 2);
  std::vector<double> errors;
  for (const Entry& entry : problem.entries) errors.push_back(0.3 * entry.objective + 0.01);
  const ResampleOptions options{.samples = 40, .seed = 1, .solver = {}};
  const Resampled a = resample(problem, solve(problem).solutions.at(0), errors, options);
  std::reverse(problem.entries.begin(), problem.entries.end());
  std::reverse(errors.begin(), errors.end());
  const Solution solution = solve(problem).solutions.at(0);
  EXPECT_EQ(resample(problem, solution, errors, options).changed, a.changed);
  EXPECT_NE(resample(problem, solution, errors, {.samples = 40, .seed = 2, .solver = {}}).changed, a.changed);
  EXPECT_GT(*std::max_element(a.changed.begin(), a.changed.end()), 0);
  EXPECT_THROW(resample(problem, solution, std::vector<double>(3), options), Error);
}

}  // namespace
}  // namespace tangram
