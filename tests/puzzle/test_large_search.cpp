// Searches of Llama 3.1 70B's size, against dynamic programs and simpler ways to search.

#include <gtest/gtest.h>

#include <algorithm>

#include "large_problem.h"
#include "puzzle/baselines.h"
#include "puzzle/solver.h"

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// best[l][b]: the smallest objective of the first l layers with whole costs of at most b; pairs and spans.
double best_by_dynamic_program(const Problem& problem) {
  const auto budget = static_cast<size_t>(problem.limits[0].maximum);
  std::vector<std::vector<double>> best(size_t(problem.layer_count) + 1, std::vector<double>(budget + 1, kInfinity));
  best[0].assign(budget + 1, 0);
  for (size_t l = 0; l < size_t(problem.layer_count); ++l)
    for (const Entry& entry : problem.entries) {
      if (entry.slots[0] != int32_t(2 * l)) continue;
      const size_t to = l + entry.slots.size() / 2;
      for (auto b = size_t(entry.costs[0]); b <= budget; ++b)
        best[to][b] = std::min(best[to][b], best[l][b - size_t(entry.costs[0])] + entry.objective);
    }
  return best.back()[budget];
}

TEST(LargeSearchTest, OneLimitWithPairsAndSpansAgreesWithDynamicProgram) {
  for (const Family family : {Family::random, Family::correlated})
    for (const bool spans : {false, true}) {
      Problem problem = large_problem({.family = family, .pairs = true, .spans = spans}, 3, 0.4);
      problem.limits.resize(1);
      for (Entry& entry : problem.entries) entry.costs = {std::round(30 * entry.costs[0])};
      problem.limits[0].maximum = std::round(30 * problem.limits[0].maximum);
      const double best = best_by_dynamic_program(problem);
      const SolveResult result = solve(problem);
      ASSERT_EQ(result.status, SolveStatus::optimal);
      EXPECT_NEAR(result.solutions.at(0).objective, best, 1e-12 * kLargeLayers);
    }
}

TEST(LargeSearchTest, SubblocksAreTheSameProblemAsTheirPairs) {
  const Problem subblocks = llama_70b_problem(2, 0.6);
  Problem pairs{.layer_count = kLargeLayers, .entries = {}, .limits = subblocks.limits};
  for (const Entry& a : subblocks.entries)
    for (const Entry& f : subblocks.entries) {
      if (a.slots[0] % 2 != 0 || f.slots[0] != a.slots[0] + 1) continue;
      Entry pair = a;
      pair.row = int64_t(pairs.entries.size()), pair.slots.push_back(f.slots[0]), pair.objective += f.objective;
      for (size_t k = 0; k < pair.costs.size(); ++k) pair.costs[k] += f.costs[k];
      pairs.entries.push_back(std::move(pair));
    }
  const SolveResult a = solve(subblocks), b = solve(pairs);
  ASSERT_EQ(a.status, SolveStatus::optimal);
  ASSERT_EQ(b.status, SolveStatus::optimal);
  EXPECT_NEAR(a.solutions.at(0).objective, b.solutions.at(0).objective, 1e-12);
}

// The order of entries, and a start from another budget's student and prices, change nothing.
TEST(LargeSearchTest, OrderAndStartDoNotMatter) {
  Problem problem = llama_70b_problem(1, 0.55);
  const Solution best = solve(problem).solutions.at(0);
  const Solution tighter = solve(llama_70b_problem(1, 0.5)).solutions.at(0);
  const SolveResult started = solve(problem, {.known = {tighter.entries}, .prices = tighter.prices});
  EXPECT_EQ(started.status, SolveStatus::optimal);
  EXPECT_NEAR(started.solutions.at(0).objective, best.objective, 1e-12);
  const std::vector<int64_t> rows = rows_of(problem, best);
  std::shuffle(problem.entries.begin(), problem.entries.end(), std::mt19937(1));
  EXPECT_EQ(rows_of(problem, solve(problem).solutions.at(0)), rows);
}

TEST(LargeSearchTest, DiverseStudentsDifferAndHaveBounds) {
  const Problem problem = llama_70b_problem(1, 0.6);
  const SolveResult result = solve(problem, {.count = 6, .min_difference = 0.1, .seconds_at_most = 0.3});
  ASSERT_EQ(result.solutions.size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const Solution& s = result.solutions[i];
    EXPECT_TRUE(keeps_limits(problem, s));
    EXPECT_LE(s.bound, s.objective);
    EXPECT_GT(s.bound, 0.98 * s.objective);
    for (size_t j = 0; j < i; ++j) EXPECT_GE(layers_that_differ(problem, s, result.solutions[j]), 8);
  }
}

TEST(LargeSearchTest, AllVariantsButOneAgreeWithLeavingOutEach) {
  Problem problem = llama_70b_problem(3, 0.7);
  double best = kInfinity;
  for (int v = 0; v < 15; ++v) {
    const int kind = v < 6 ? v : 100 + v - 6;
    Problem without = problem;
    std::erase_if(without.entries, [&](const Entry& entry) { return entry.kind == kind; });
    const SolveResult result = solve(without);
    if (!result.solutions.empty()) best = std::min(best, result.solutions[0].objective);
  }
  problem.most_variants = 14;
  const SolveResult result = solve(problem);
  ASSERT_EQ(result.status, SolveStatus::optimal);
  EXPECT_LE(variant_count(problem, result.solutions.at(0)), 14);
  EXPECT_NEAR(result.solutions.at(0).objective, best, 1e-12);
}

TEST(LargeSearchTest, ExactSearchBeatsSimplerWaysAtFiveBudgets) {
  for (const double budget : {0.8, 0.7, 0.6, 0.5, 0.4}) {
    SCOPED_TRACE(budget);
    const Problem problem = llama_70b_problem(1, budget);
    const SolveResult exact = solve(problem);
    ASSERT_EQ(exact.status, SolveStatus::optimal);
    const auto is_beaten = [&](const SolveResult& other) {
      return other.solutions.empty() || other.solutions[0].objective > exact.solutions[0].objective;
    };
    const SolveResult by_loss = solve(scored_by_loss(problem, 1));
    EXPECT_LT(exact.solutions[0].objective, evaluate(problem, by_loss.solutions.at(0).entries).objective);
    EXPECT_TRUE(is_beaten(greedy(problem)));
    EXPECT_TRUE(is_beaten(uniform(problem)));
    EXPECT_TRUE(is_beaten(largest_parameter(problem, {.gap = 1e-4})));
    for (uint64_t i = 0; i < 5; ++i) EXPECT_TRUE(is_beaten(random_feasible(problem, 1, i)));
  }
}

}  // namespace
}  // namespace tangram
