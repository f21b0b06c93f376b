// The solver against brute force on thousands of small random problems, and against plain CBC on larger ones.

#include <gtest/gtest.h>

#include "puzzle/solver.h"
#include "random_problem.h"

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Sums of a few numbers, in another order than the solver's.
double rounding(const Problem& problem, const Solution& solution) {
  double size = 1;
  for (const int32_t e : solution.entries) size += std::abs(problem.entries[size_t(e)].objective);
  return 2e-12 * size;
}

struct BruteForce {
  Solution best;              // objective infinity if there is none
  double excess = kInfinity;  // the least of any student of so few variants
};

BruteForce brute_force(const Problem& problem) {
  BruteForce found;
  found.best.objective = kInfinity;
  for_every_cover(problem, [&](const std::vector<int32_t>& entries) {
    const Solution s = evaluate(problem, entries);
    if (problem.most_variants > 0 && variant_count(problem, s) > problem.most_variants) return;
    found.excess = std::min(found.excess, excess_of(problem, s));
    if (keeps_limits(problem, s) && s.objective < found.best.objective) found.best = s;
  });
  return found;
}

/// What one seed makes: every kind of entry, size and trouble comes up, in all combinations.
ProblemShape shape_of(uint32_t seed) {
  std::mt19937 random(seed + 77);
  const auto below = [&](int n) { return int(random() % uint32_t(n)); };
  ProblemShape shape{.layers = 1 + below(4), .attention = 1 + below(3), .ffn = 1 + below(3)};
  shape.pairs = below(3), shape.spans = below(3), shape.limits = below(5);
  shape.tightness = 0.02 + 0.01 * below(90);
  shape.whole_numbers = below(3) == 0;
  shape.outliers = below(4) == 0 ? 0.1 : 0;
  shape.below_zero = below(4) == 0;
  shape.opposed = below(3) == 0;
  shape.most_variants = below(3) == 0 ? 1 + below(6) : 0;
  return shape;
}

void expect_exact(uint32_t seed) {
  SCOPED_TRACE(seed);
  const Problem problem = random_problem(shape_of(seed), seed);
  const BruteForce truth = brute_force(problem);
  const SolveResult result = solve(problem);
  if (truth.best.objective == kInfinity) {
    ASSERT_EQ(result.status, SolveStatus::infeasible);
    EXPECT_EQ(result.nearest.solution.empty(), truth.excess == kInfinity);
    if (truth.excess == kInfinity) return;
    EXPECT_NEAR(result.nearest.excess, truth.excess, 1e-11 * truth.excess);
    EXPECT_EQ(excess_of(problem, result.nearest.solution.at(0)), result.nearest.excess);
    EXPECT_EQ(result.nearest.bound, result.nearest.excess);
    return;
  }
  ASSERT_EQ(result.status, SolveStatus::optimal);
  const Solution& found = result.solutions.at(0);
  EXPECT_TRUE(is_allowed(problem, found));
  EXPECT_NEAR(found.objective, truth.best.objective, rounding(problem, truth.best));
  EXPECT_EQ(found.bound, found.objective);
}

TEST(ExactnessTest, ThousandsOfSmallProblemsAgreeWithBruteForce) {
  for (uint32_t seed = 0; seed < 4000; ++seed) expect_exact(seed);
}

// The problem under some of its limits: the others are as large as can be.
bool attainable_under(Problem problem, const std::vector<char>& counts, bool count_variants) {
  for (size_t k = 0; k < counts.size(); ++k)
    if (!counts[k]) problem.limits[k].maximum = 1e12;
  if (!count_variants) problem.most_variants = 0;
  return brute_force(problem).best.objective < kInfinity;
}

TEST(ExactnessTest, ConflictsAgreeWithBruteForce) {
  int infeasible = 0, of_several = 0, fewer_variants = 0;
  for (uint32_t seed = 0; seed < 1500; ++seed) {
    SCOPED_TRACE(seed);
    ProblemShape shape = shape_of(seed);
    shape.layers = std::min<int64_t>(shape.layers, 3), shape.tightness *= 0.7;
    const Problem problem = random_problem(shape, seed);
    const SolveResult result = solve(problem);
    if (result.status != SolveStatus::infeasible) continue;
    ++infeasible;
    std::vector<char> needed;
    EXPECT_TRUE(result.conflicts_are_proven);
    for (size_t k = 0; k < problem.limits.size(); ++k) {
      const Conflict& conflict = result.conflicts.at(k);
      needed.push_back(conflict.is_needed);
      double alone = kInfinity, beside = kInfinity;
      for_every_cover(problem, [&](const std::vector<int32_t>& entries) {
        const Solution s = evaluate(problem, entries);
        alone = std::min(alone, s.totals[k]);
        if (problem.most_variants > 0 && variant_count(problem, s) > problem.most_variants) return;
        for (size_t other = 0; other < problem.limits.size(); ++other)
          if (other != k && !keeps(problem.limits[other], s.totals[other])) return;
        beside = std::min(beside, s.totals[k]);
      });
      const double size = 1e-11 * (1 + std::abs(problem.limits[k].fixed));
      EXPECT_TRUE(conflict.is_proven);
      EXPECT_TRUE(alone == conflict.smallest || std::abs(alone - conflict.smallest) < size);
      EXPECT_TRUE(beside == conflict.smallest_with_others || std::abs(beside - conflict.smallest_with_others) < size);
    }
    if (problem.most_variants > 0) {
      int64_t fewest = 0;
      for_every_cover(problem, [&](const std::vector<int32_t>& entries) {
        const Solution s = evaluate(problem, entries);
        const int64_t count = variant_count(problem, s);
        if (keeps_limits(problem, s) && (fewest == 0 || count < fewest)) fewest = count;
      });
      EXPECT_EQ(result.variants_conflict.fewest_with_others, fewest);
      EXPECT_TRUE(result.variants_conflict.is_proven);
      fewer_variants += fewest > 0;
    }
    const bool variants = result.variants_conflict.is_needed;
    of_several += std::count(needed.begin(), needed.end(), 1) + variants > 1;
    EXPECT_FALSE(attainable_under(problem, needed, variants)) << "the set does not conflict";
    for (size_t k = 0; k < needed.size(); ++k)
      if (needed[k]) {
        std::vector<char> fewer = needed;
        fewer[k] = 0;
        EXPECT_TRUE(attainable_under(problem, fewer, variants)) << "limit " << k << " can be spared";
      }
    if (variants) {
      EXPECT_TRUE(attainable_under(problem, needed, false)) << "the limit on variants can be spared";
    }
  }
  EXPECT_GT(infeasible, 100);
  EXPECT_GT(of_several, 20);
  EXPECT_GT(fewer_variants, 20);
}

// The problem that is left where only some of the rules count.
Problem without_rules(const Problem& problem, const std::vector<char>& counts) {
  Problem other = problem;
  for (const TakenOut& taken : problem.taken_out)
    if (std::none_of(taken.rules.begin(), taken.rules.end(), [&](int32_t r) { return counts[size_t(r)]; }))
      other.entries.push_back(taken.entry);
  return other;
}

TEST(ExactnessTest, ConflictsOfRulesAgreeWithBruteForce) {
  int of_rules = 0, of_both = 0, enough = 0;
  for (uint32_t seed = 0; seed < 600; ++seed) {
    SCOPED_TRACE(seed);
    ProblemShape shape = shape_of(seed);
    shape.layers = std::min<int64_t>(shape.layers, 3), shape.tightness += 0.1;
    Problem problem = random_problem(shape, seed);
    std::mt19937 random(seed);
    problem.rules = {"a", "b", "c", "d"};
    std::vector<Entry> left;
    for (const Entry& entry : problem.entries) {
      std::vector<int32_t> broken;
      for (int32_t r = 0; r < 4; ++r)
        if (random() % 4 == 0) broken.push_back(r);
      if (broken.empty())
        left.push_back(entry);
      else
        problem.taken_out.push_back({entry, broken});
    }
    problem.entries = left;
    const SolveResult result = solve(problem);
    if (result.status != SolveStatus::infeasible) continue;
    std::vector<char> rules, limits;
    for (const RuleConflict& rule : result.rule_conflicts) rules.push_back(rule.is_needed);
    for (const Conflict& limit : result.conflicts) limits.push_back(limit.is_needed);
    const bool variants = result.variants_conflict.is_needed;
    EXPECT_TRUE(result.conflicts_are_proven);
    EXPECT_FALSE(attainable_under(without_rules(problem, rules), limits, variants)) << "the set does not conflict";
    const auto sparing = [](std::vector<char> counts, size_t i) { return counts[i] = 0, counts; };
    for (size_t r = 0; r < rules.size(); ++r) {
      if (rules[r]) {
        EXPECT_TRUE(attainable_under(without_rules(problem, sparing(rules, r)), limits, variants)) << "rule " << r;
      }
      const Problem others = without_rules(problem, sparing(std::vector<char>(4, 1), r));
      EXPECT_EQ(result.rule_conflicts[r].is_enough, brute_force(others).best.objective < kInfinity);
      enough += result.rule_conflicts[r].is_enough;
    }
    for (size_t k = 0; k < limits.size(); ++k)
      if (limits[k]) {
        EXPECT_TRUE(attainable_under(without_rules(problem, rules), sparing(limits, k), variants)) << "limit " << k;
      }
    const auto count = std::count(rules.begin(), rules.end(), 1);
    const bool others = std::count(limits.begin(), limits.end(), 1) > 0 || variants;
    of_rules += count > 0 && !others, of_both += count > 0 && others;
  }
  EXPECT_GT(of_rules, 20);
  EXPECT_GT(of_both, 20);
  EXPECT_GT(enough, 20);
}

// Of problems too large to enumerate; CBC's tolerances are the difference that is allowed.
TEST(ExactnessTest, LargerProblemsAgreeWithPlainCbc) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    ProblemShape shape = shape_of(seed);
    shape.layers = 8, shape.attention = 4, shape.ffn = 5, shape.limits = 1 + int(seed % 3);
    shape.tightness = 0.15 + 0.05 * seed;
    shape.outliers = 0;
    shape.most_variants = seed % 2 ? 4 : 0;
    const Problem problem = random_problem(shape, seed);
    const SolveResult result = solve(problem, {.count = 2, .min_difference = 0.3});
    const SolveResult plain = solve(problem, {.count = 2, .min_difference = 0.3, .plain = true});
    ASSERT_EQ(result.status, plain.status);
    ASSERT_EQ(result.solutions.size(), plain.solutions.size());
    for (size_t i = 0; i < plain.solutions.size(); ++i)
      EXPECT_NEAR(result.solutions[i].objective, plain.solutions[i].objective, 1e-8);
  }
}

// Entries that no path of layers holds: an attention entry of two layers, and an ffn with the next layer's attention.
TEST(ExactnessTest, EntriesAcrossHalfLayersAgreeWithBruteForce) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Problem problem = random_problem({.layers = 3, .limits = 2, .tightness = 0.1 + 0.01 * seed}, seed);
    Entry across = problem.entries[0];
    for (const std::vector<int32_t>& slots : {std::vector<int32_t>{0, 2}, std::vector<int32_t>{3, 4}}) {
      across.row = int64_t(problem.entries.size()), across.slots = slots, across.objective *= 0.9;
      problem.entries.push_back(across);
    }
    const BruteForce truth = brute_force(problem);
    const SolveResult result = solve(problem);
    if (truth.best.objective == kInfinity) {
      EXPECT_EQ(result.status, SolveStatus::infeasible);
      EXPECT_NEAR(result.nearest.excess, truth.excess, 1e-8);
    } else {
      ASSERT_EQ(result.status, SolveStatus::optimal);
      EXPECT_NEAR(result.solutions.at(0).objective, truth.best.objective, rounding(problem, truth.best));
    }
  }
}

}  // namespace
}  // namespace tangram
