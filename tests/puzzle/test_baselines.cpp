#include "puzzle/baselines.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "random_problem.h"

namespace tangram {
namespace {

Solution only(const SolveResult& result) {
  EXPECT_EQ(result.status, SolveStatus::feasible);
  EXPECT_EQ(result.solutions.size(), 1u);
  return result.solutions.at(0);
}

// Two layers; under 20 bytes each has a share of 10. Layer 1 is the less sensitive, so it goes first, takes cost 6 and
// leaves 4 to layer 0, which then affords 14.
TEST(BaselinesTest, GreedyByHand) {
  Problem problem{.layer_count = 2, .entries = {}, .limits = {{"memory", "byte", 23, 3}}};
  problem.entries = {
      {.row = 0, .slots = {0}, .objective = 0, .costs = {15}}, {.row = 1, .slots = {0}, .objective = 1, .costs = {13}},
      {.row = 2, .slots = {0}, .objective = 90, .costs = {0}}, {.row = 3, .slots = {1}, .objective = 0, .costs = {1}},
      {.row = 4, .slots = {2}, .objective = 0, .costs = {11}}, {.row = 5, .slots = {2}, .objective = 2, .costs = {6}},
      {.row = 6, .slots = {2}, .objective = 3, .costs = {1}},  {.row = 7, .slots = {3}, .objective = 0, .costs = {0}}};
  EXPECT_EQ(rows_of(problem, only(greedy(problem))), (std::vector<int64_t>{1, 3, 5, 7}));
  EXPECT_EQ(only(greedy(problem)).totals[0], 23);

  // A pair may be taken in place of two entries.
  problem.entries.push_back({.row = 8, .slots = {0, 1}, .objective = 0.5, .costs = {14}});
  EXPECT_EQ(rows_of(problem, only(greedy(problem))), (std::vector<int64_t>{8, 5, 7}));

  // The second limit's share is 2 a layer, and 5 uses 3: 6 it is, and layer 0 has 3 left for its 1 + 2.
  problem.entries.pop_back();
  problem.limits.push_back({"latency", "s", 4, 0});
  const std::vector<double> seconds = {0, 1, 0, 2, 0, 3, 1, 0};
  for (size_t i = 0; i < seconds.size(); ++i) problem.entries[i].costs.push_back(seconds[i]);
  problem.entries[4].costs = {11, 0};
  EXPECT_EQ(rows_of(problem, only(greedy(problem))), (std::vector<int64_t>{0, 3, 6, 7}));
}

// No choice of layer 1 is within its share of 10; the one that exceeds least is taken, and layer 0 pays.
TEST(BaselinesTest, GreedyLetsLaterLayersPay) {
  Problem problem{.layer_count = 2, .entries = {}, .limits = {{"memory", "byte", 20, 0}}};
  problem.entries = {{.row = 0, .slots = {0, 1}, .objective = 5, .costs = {10}},
                     {.row = 1, .slots = {0, 1}, .objective = 9, .costs = {6}},
                     {.row = 2, .slots = {2, 3}, .objective = 1, .costs = {14}},
                     {.row = 3, .slots = {2, 3}, .objective = 0, .costs = {15}}};
  EXPECT_EQ(rows_of(problem, only(greedy(problem))), (std::vector<int64_t>{1, 2}));
  problem.limits[0].maximum = 19;
  EXPECT_EQ(greedy(problem).status, SolveStatus::not_found);
}

// Shares are 10 and 2 a layer. Row 2 is beyond them by 0.9 and 0.1 shares, row 3 by 0.2 and 0.5, so row 3 exceeds
// least.
TEST(BaselinesTest, GreedyGoesByTheWorstLimit) {
  Problem problem{.layer_count = 2, .entries = {}, .limits = {{"memory", "byte", 20, 0}, {"latency", "s", 4, 0}}};
  problem.entries = {{.row = 0, .slots = {0, 1}, .objective = 5, .costs = {8, 1}},
                     {.row = 1, .slots = {0, 1}, .objective = 9, .costs = {0, 0}},
                     {.row = 2, .slots = {2, 3}, .objective = 0, .costs = {19, 2.2}},
                     {.row = 3, .slots = {2, 3}, .objective = 1, .costs = {12, 3}}};
  EXPECT_EQ(rows_of(problem, only(greedy(problem))), (std::vector<int64_t>{0, 3}));
}

// By enumeration: all layers of the same kinds.
TEST(BaselinesTest, UniformIsTheBestOfAllUniformStudents) {
  for (uint32_t seed = 0; seed < 10; ++seed) {
    const Problem problem =
        random_problem({.layers = 3, .pairs = 2, .limits = 2, .tightness = 0.2 + 0.08 * seed}, seed);
    double best = std::numeric_limits<double>::infinity();
    for_every_cover(problem, [&](const std::vector<int32_t>& entries) {
      std::map<int64_t, std::set<int32_t>> kinds;
      for (const int32_t i : entries) {
        const Entry& entry = problem.entries[size_t(i)];
        kinds[layer_of(entry.slots[0])].insert(entry.kind);
      }
      for (const auto& [layer, of_layer] : kinds)
        if (of_layer != kinds[0]) return;
      const Solution s = evaluate(problem, entries);
      if (keeps_limits(problem, s)) best = std::min(best, s.objective);
    });
    const SolveResult result = uniform(problem);
    if (std::isinf(best))
      EXPECT_EQ(result.status, SolveStatus::not_found) << seed;
    else
      EXPECT_EQ(only(result).objective, best) << seed;
  }
}

TEST(BaselinesTest, LargestParameterAgreesWithBruteForce) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const Problem problem = random_problem({.layers = 3, .pairs = 1, .spans = 1, .limits = 2}, seed);
    double most = -1;
    for_every_cover(problem, [&](const std::vector<int32_t>& entries) {
      const Solution s = evaluate(problem, entries);
      if (keeps_limits(problem, s)) most = std::max(most, s.parameters);
    });
    const Solution found = only(largest_parameter(problem));
    EXPECT_NEAR(found.parameters, most, 1e-9 * most);
    EXPECT_GE(found.objective, solve(problem).solutions.at(0).objective) << "evaluated by the true objective";
    EXPECT_TRUE(keeps_limits(problem, found));
  }
}

TEST(BaselinesTest, RandomStudentsKeepLimitsUseThemUpAndDiffer) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const Problem problem =
        random_problem({.layers = 5, .pairs = 1, .limits = 1 + int(seed % 3), .tightness = 0.15 + 0.1 * seed}, seed);
    std::set<std::vector<int32_t>> students;
    for (uint64_t index = 0; index < 20; ++index) {
      const Solution s = only(random_feasible(problem, seed, index));
      EXPECT_TRUE(keeps_limits(problem, s));
      EXPECT_EQ(only(random_feasible(problem, seed, index)).entries, s.entries);
      students.insert(s.entries);
      // No entry can be exchanged for one that costs more under every limit.
      for (const int32_t i : s.entries)
        for (const Entry& other : problem.entries) {
          const Entry& now = problem.entries[size_t(i)];
          bool fits = other.slots == now.slots && other.costs != now.costs;
          for (size_t k = 0; k < problem.limits.size(); ++k)
            fits = fits && other.costs[k] >= now.costs[k] &&
                   s.totals[k] - now.costs[k] + other.costs[k] <= problem.limits[k].maximum;
          EXPECT_FALSE(fits) << "entry " << i << " could be row " << other.row;
        }
    }
    EXPECT_GT(students.size(), 5u);
  }
}

// Without limits each of the 9 students of one layer has probability 1/9: chi^2 with 8 degrees of freedom is
// beyond 26.1 once in a thousand, and the draws are fixed.
TEST(BaselinesTest, RandomIsEvenWithoutLimits) {
  const Problem problem = random_problem({.layers = 1, .limits = 0}, 1);
  std::map<std::vector<int32_t>, int> counts;
  for (uint64_t index = 0; index < 900; ++index) ++counts[only(random_feasible(problem, 7, index)).entries];
  double chi_squared = 0;
  for (const auto& [student, n] : counts) chi_squared += (n - 100) * (n - 100) / 100.0;
  EXPECT_EQ(counts.size(), 9u);
  EXPECT_LT(chi_squared, 26.1);
}

TEST(BaselinesTest, NoneIsBetterThanTheExactSearch) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const Problem problem = random_problem({.layers = 12, .pairs = 2, .limits = 2, .tightness = 0.4}, seed);
    const double best = solve(problem).solutions.at(0).objective;
    for (const SolveResult& result : {greedy(problem), uniform(problem), random_feasible(problem, 1, seed)})
      for (const Solution& s : result.solutions) {
        EXPECT_GE(s.objective, best * (1 - 1e-9));
        EXPECT_TRUE(keeps_limits(problem, s));
      }
  }
}

TEST(BaselinesTest, AnswersDoNotDependOnTheOrderOfEntries) {
  const Problem problem =
      random_problem({.layers = 5, .pairs = 2, .limits = 2, .tightness = 0.4, .whole_numbers = true}, 3);
  Problem shuffled = problem;
  std::shuffle(shuffled.entries.begin(), shuffled.entries.end(), std::mt19937(1));
  EXPECT_EQ(rows_of(problem, only(greedy(problem))), rows_of(shuffled, only(greedy(shuffled))));
  EXPECT_EQ(rows_of(problem, only(uniform(problem))), rows_of(shuffled, only(uniform(shuffled))));
  EXPECT_EQ(rows_of(problem, only(random_feasible(problem, 1, 2))),
            rows_of(shuffled, only(random_feasible(shuffled, 1, 2))));
}

TEST(BaselinesTest, NothingFeasibleIsAStatus) {
  const Problem problem = random_problem({.tightness = -0.5}, 1);
  EXPECT_EQ(greedy(problem).status, SolveStatus::not_found);
  EXPECT_EQ(uniform(problem).status, SolveStatus::not_found);
  EXPECT_EQ(random_feasible(problem, 1, 1).status, SolveStatus::not_found);
  EXPECT_EQ(largest_parameter(problem).status, SolveStatus::infeasible);
  EXPECT_EQ(largest_parameter(problem).conflicts.size(), 1u);
}

TEST(BaselinesTest, LayersThatOnlySpansFillAreNotFound) {
  Problem problem{.layer_count = 2, .entries = {{.row = 0, .slots = {0, 1, 2, 3}}}, .limits = {}};
  EXPECT_EQ(greedy(problem).status, SolveStatus::not_found);
  EXPECT_EQ(uniform(problem).status, SolveStatus::not_found);
  EXPECT_EQ(random_feasible(problem, 1, 1).status, SolveStatus::not_found);
  EXPECT_EQ(only(largest_parameter(problem)).entries, std::vector<int32_t>{0});
}

}  // namespace
}  // namespace tangram
