#include "puzzle/frontier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "puzzle/solver.h"
#include "random_problem.h"

namespace tangram {
namespace {

/// Every student that keeps all limits but the moved one, by total and objective.
std::vector<std::pair<double, double>> all_students(const Problem& problem, size_t moved) {
  std::vector<std::pair<double, double>> students;
  for_every_cover(problem, [&](const std::vector<int32_t>& entries) {
    const Solution s = evaluate(problem, entries);
    for (size_t k = 0; k < problem.limits.size(); ++k)
      if (k != moved && !keeps(problem.limits[k], s.totals[k])) return;
    if (problem.most_variants > 0 && variant_count(problem, s) > problem.most_variants) return;
    students.push_back({s.totals[moved], s.objective});
  });
  std::sort(students.begin(), students.end());
  return students;
}

// Corners of the lower left hull: falling in objective, and above no line between two students.
std::vector<std::pair<double, double>> hull_of(const std::vector<std::pair<double, double>>& students) {
  std::vector<std::pair<double, double>> hull;
  for (const auto& c : students) {
    if (!hull.empty() && c.second >= hull.back().second) continue;
    while (hull.size() >= 2) {
      const auto &a = hull[hull.size() - 2], &b = hull.back();
      if ((b.first - a.first) * (c.second - a.second) - (b.second - a.second) * (c.first - a.first) > 0) break;
      hull.pop_back();
    }
    hull.push_back(c);
  }
  return hull;
}

Problem small_problem(uint32_t seed) {
  return random_problem({.layers = 4,
                         .ffn = 2,
                         .pairs = int(seed % 2),
                         .spans = int(seed % 3),
                         .limits = 1 + int(seed % 3),
                         .tightness = 0.35,
                         .most_variants = seed % 4 == 3 ? 4 : 0},
                        seed);
}

TEST(FrontierTest, EveryPointAndEverySupportedPointAgreesWithBruteForce) {
  int found = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    const Problem problem = small_problem(seed);
    const size_t moved = seed % problem.limits.size();
    const auto students = all_students(problem, moved);
    const Frontier frontier =
        trace_frontier(problem, {.limit = moved, .points = 12, .supported = true, .refine = 3, .solver = {}});
    EXPECT_TRUE(frontier.is_proven);
    if (students.empty()) {
      EXPECT_TRUE(frontier.points.empty());
      continue;
    }
    ++found;
    EXPECT_NEAR(frontier.smallest, students[0].first, 1e-12);
    double before = -1;
    std::vector<std::pair<double, double>> supported;
    for (const FrontierPoint& point : frontier.points) {
      EXPECT_GE(point.maximum, before);
      before = point.maximum;
      double best = std::numeric_limits<double>::infinity();
      for (const auto& [total, objective] : students)
        if (total <= point.maximum * (1 + 1e-13)) best = std::min(best, objective);
      EXPECT_NEAR(point.solution.objective, best, 1e-11 * (1 + best)) << point.maximum;
      EXPECT_EQ(point.solution.bound, point.solution.objective);
      if (point.is_supported) supported.push_back({point.solution.totals[moved], point.solution.objective});
    }
    supported.erase(std::unique(supported.begin(), supported.end()), supported.end());
    const auto hull = hull_of(students);
    ASSERT_EQ(supported.size(), hull.size());
    for (size_t i = 0; i < hull.size(); ++i) {
      EXPECT_NEAR(supported[i].first, hull[i].first, 1e-11);
      EXPECT_NEAR(supported[i].second, hull[i].second, 1e-11 * (1 + hull[i].second));
    }
  }
  EXPECT_GT(found, 40);
}

/// Problems of the same shape and limits, as batch sizes give them: of a least throughput each has its own tokens.
std::vector<Problem> several_problems(uint32_t seed, size_t moved_limit) {
  std::vector<Problem> problems;
  for (uint32_t i = 0; i < 2 + seed % 3; ++i) {
    problems.push_back(random_problem({.layers = 3,
                                       .pairs = int(seed % 2),
                                       .spans = int(seed % 3),
                                       .limits = 2,
                                       .tightness = 0.2 + 0.1 * double((seed + i) % 4),
                                       .whole_numbers = seed % 5 == 4},
                                      100 * seed + i));
    if (seed % 2 == 1) problems.back().limits[moved_limit].tokens = 4 << i;
    if (seed % 7 == 3 && i == 1) problems.back().limits[1 - moved_limit].maximum = -1;  // this one has no student
  }
  return problems;
}

TEST(FrontierTest, OverSeveralProblemsEveryPointIsTheBestOfAll) {
  int changes = 0;
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    const size_t moved = seed % 2;
    const std::vector<Problem> problems = several_problems(seed, moved);
    const auto unit = [&](size_t p) { return std::max(1.0, problems[p].limits[moved].tokens); };
    std::vector<std::pair<double, double>> students;  // of all problems
    for (size_t p = 0; p < problems.size(); ++p)
      for (const auto& [total, objective] : all_students(problems[p], moved))
        students.push_back({total / unit(p), objective});
    std::sort(students.begin(), students.end());
    ASSERT_FALSE(students.empty());
    const Frontier frontier =
        trace_frontier(problems, {.limit = moved, .points = 12, .supported = true, .refine = 3, .solver = {}});
    EXPECT_TRUE(frontier.is_proven);
    ASSERT_GE(frontier.points.size(), 12u);
    EXPECT_NEAR(frontier.smallest, students[0].first, 1e-12);
    std::vector<std::pair<double, double>> supported;
    for (size_t i = 0; i < frontier.points.size(); ++i) {
      const FrontierPoint& point = frontier.points[i];
      const Problem& own = problems[point.problem];
      double best = std::numeric_limits<double>::infinity();
      for (const auto& [total, objective] : students)
        if (total <= point.maximum * (1 + 1e-13)) best = std::min(best, objective);
      EXPECT_NEAR(point.solution.objective, best, 1e-11 * (1 + best)) << point.maximum;
      EXPECT_TRUE(is_proven(point.solution));
      // The student is what it is said to be, in the problem that it is said to solve.
      const Solution again = evaluate(own, point.solution.entries);
      EXPECT_EQ(again.objective, point.solution.objective);
      EXPECT_LE(again.totals[moved] / unit(point.problem), point.maximum * (1 + 1e-12));
      EXPECT_TRUE(keeps(own.limits[1 - moved], again.totals[1 - moved]));
      if (point.is_supported)
        supported.push_back({again.totals[moved] / unit(point.problem), point.solution.objective});
      changes += i > 0 && point.problem != frontier.points[i - 1].problem;
    }
    supported.erase(std::unique(supported.begin(), supported.end()), supported.end());
    const auto hull = hull_of(students);
    ASSERT_EQ(supported.size(), hull.size());
    for (size_t i = 0; i < hull.size(); ++i) {
      EXPECT_NEAR(supported[i].first, hull[i].first, 1e-11);
      EXPECT_NEAR(supported[i].second, hull[i].second, 1e-11 * (1 + hull[i].second));
    }
  }
  EXPECT_GT(changes, 20);  // else one problem would do
}

TEST(FrontierTest, PointsAreSpacedEvenlyAndRefinedWhereNeighboursDifferMost) {
  const Problem problem = random_problem({.layers = 12, .attention = 4, .ffn = 5, .limits = 2, .tightness = 0.4}, 3);
  const Frontier coarse = trace_frontier(problem, {.limit = 0, .points = 5, .solver = {}});
  ASSERT_EQ(coarse.points.size(), 5u);
  for (size_t i = 0; i < 5; ++i)
    EXPECT_NEAR(coarse.points[i].maximum, coarse.smallest + (coarse.largest - coarse.smallest) * double(i) / 4, 1e-9);
  const Frontier fine = trace_frontier(problem, {.limit = 0, .points = 5, .refine = 1, .solver = {}});
  ASSERT_EQ(fine.points.size(), 6u);
  size_t added = 0;
  while (added < 5 && fine.points[added].maximum == coarse.points[added].maximum) ++added;
  ASSERT_GE(added, 1u);
  const auto layers = [&](size_t i) {
    return layers_that_differ(problem, coarse.points[i].solution, coarse.points[i + 1].solution);
  };
  for (size_t i = 0; i < 4; ++i) EXPECT_LE(layers(i), layers(added - 1));
  EXPECT_NEAR(fine.points[added].maximum, (coarse.points[added - 1].maximum + coarse.points[added].maximum) / 2, 1e-9);
}

TEST(FrontierTest, NoPointsWhereTheOtherLimitsCannotBeMet) {
  Problem problem = random_problem({.limits = 2}, 1);
  problem.limits[1].maximum = -1;
  EXPECT_TRUE(trace_frontier(problem, {.limit = 0, .solver = {}}).points.empty());
  EXPECT_THROW(trace_frontier(problem, {.limit = 2, .solver = {}}), Error);
  EXPECT_THROW(trace_frontier(problem, {.limit = 0, .points = 0, .solver = {}}), Error);
}

}  // namespace
}  // namespace tangram
