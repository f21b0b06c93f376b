#include "puzzle/solver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "random_problem.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Sums of a few numbers, in another order than the solver's.
constexpr double kRounding = 1e-12;

// By brute force: the best cover that keeps the limits and differs in `least_difference` layers from all of `earlier`.
Solution best_by_enumeration(const Problem& problem, const std::vector<Solution>& earlier = {},
                             int64_t least_difference = 0) {
  Solution best;
  best.objective = kInfinity;
  for_every_cover(problem, [&](const std::vector<int32_t>& entries) {
    const Solution s = evaluate(problem, entries);
    if (s.objective >= best.objective || !keeps_limits(problem, s)) return;
    for (const Solution& e : earlier)
      if (layers_that_differ(problem, s, e) < least_difference) return;
    best = s;
  });
  return best;
}

void expect_brute_force_optimum(const ProblemShape& shape, uint32_t seed) {
  SCOPED_TRACE(fmt::format("seed {} limits {} tightness {}", seed, shape.limits, shape.tightness));
  const Problem problem = random_problem(shape, seed);
  const Solution best = best_by_enumeration(problem);
  const SolveResult result = solve(problem);
  if (best.objective == kInfinity) {
    EXPECT_EQ(result.status, SolveStatus::infeasible);
    EXPECT_TRUE(result.solutions.empty());
    return;
  }
  ASSERT_EQ(result.status, SolveStatus::optimal);
  ASSERT_EQ(result.solutions.size(), 1u);
  const Solution& found = result.solutions.at(0);
  EXPECT_TRUE(keeps_limits(problem, found));
  EXPECT_NEAR(found.objective, best.objective, kRounding * std::max(1.0, best.objective));
  EXPECT_EQ(found.bound, found.objective);
}

TEST(SolverTest, PlainVariantsAgreeWithBruteForce) {  // 3^8 students
  for (uint32_t seed = 0; seed < 12; ++seed)
    expect_brute_force_optimum({.layers = 4, .limits = 1 + int(seed % 3), .tightness = 0.1 + 0.07 * seed}, seed);
}

TEST(SolverTest, PairsAndSpansAgreeWithBruteForce) {
  for (uint32_t seed = 0; seed < 12; ++seed)
    expect_brute_force_optimum(
        {.layers = 4, .pairs = 2, .spans = 2, .limits = int(seed % 4), .tightness = 0.05 + 0.06 * seed}, seed);
}

TEST(SolverTest, TiesAndLimitsMetExactlyAgreeWithBruteForce) {
  for (uint32_t seed = 0; seed < 16; ++seed)
    expect_brute_force_optimum({.layers = 3,
                                .pairs = int(seed % 2),
                                .spans = int(seed % 3),
                                .limits = 2,
                                .tightness = 0.05 * seed,
                                .whole_numbers = true},
                               seed);
}

// CBC with its defaults answers these wrongly: the first three by its preprocessing, the others by its tolerances.
TEST(SolverTest, ProblemsThatCbcGetsWrongByDefault) {
  expect_brute_force_optimum({.layers = 4, .ffn = 2, .pairs = 2, .spans = 1, .limits = 2, .tightness = 0.04}, 1202);
  expect_brute_force_optimum({.layers = 4, .ffn = 2, .pairs = 2, .limits = 2, .tightness = 0.06}, 3458);
  expect_brute_force_optimum({.layers = 4, .pairs = 2, .spans = 1, .limits = 1, .tightness = 0.04}, 3857);
  expect_brute_force_optimum({.layers = 4, .pairs = 2, .spans = 1, .limits = 3, .tightness = 0.86}, 1643);
  expect_brute_force_optimum({.layers = 3, .ffn = 2, .pairs = 1, .limits = 0, .tightness = 0.88}, 3844);
}

// Knapsack by dynamic programming over whole costs: the best sum for every budget, slot by slot.
TEST(SolverTest, OneLimitAtFullSizeAgreesWithDynamicProgram) {
  for (const uint32_t seed : {1u, 2u}) {
    Problem problem = random_problem({.layers = 80, .attention = 6, .ffn = 9, .tightness = 0.3}, seed);
    for (Entry& entry : problem.entries) entry.costs[0] = std::round(20 * entry.costs[0]);
    problem.limits[0].fixed = 0;
    problem.limits[0].maximum = std::round(20 * problem.limits[0].maximum);
    const auto budget = static_cast<size_t>(problem.limits[0].maximum);
    std::vector<double> best(budget + 1, 0);
    for (int32_t slot = 0; slot < 160; ++slot) {
      std::vector<double> next(budget + 1, kInfinity);
      for (const Entry& entry : problem.entries)
        if (entry.slots[0] == slot)
          for (size_t b = size_t(entry.costs[0]); b <= budget; ++b)
            next[b] = std::min(next[b], best[b - size_t(entry.costs[0])] + entry.objective);
      best = next;
    }
    const SolveResult result = solve(problem);
    ASSERT_EQ(result.status, SolveStatus::optimal);
    EXPECT_NEAR(result.solutions.at(0).objective, best[budget], kRounding * best[budget]);
  }
}

TEST(SolverTest, DiverseSolutionsAgreeWithBruteForce) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const Problem problem =
        random_problem({.layers = 3, .pairs = int(seed % 2), .spans = int(seed % 3), .limits = 2}, seed);
    const double share = seed < 3 ? 0.34 : 0.67;  // 2 or 3 of 3 layers
    const SolveResult result = solve(problem, {.count = 4, .min_difference = share});
    ASSERT_EQ(result.status, SolveStatus::optimal);
    std::vector<Solution> earlier;
    for (const Solution& found : result.solutions) {
      const Solution best = best_by_enumeration(problem, earlier, seed < 3 ? 2 : 3);
      EXPECT_NEAR(found.objective, best.objective, kRounding * std::max(1.0, best.objective)) << seed;
      for (const Solution& e : earlier) EXPECT_GE(layers_that_differ(problem, found, e), seed < 3 ? 2 : 3);
      earlier.push_back(found);
    }
    if (earlier.size() < 4) {
      EXPECT_EQ(best_by_enumeration(problem, earlier, seed < 3 ? 2 : 3).objective, kInfinity) << "one was missed";
    }
  }
}

TEST(SolverTest, FewerThanAskedForMeansThatThereAreNoMore) {
  const Problem problem = random_problem({.layers = 1, .attention = 2, .ffn = 1, .limits = 0}, 1);
  const SolveResult result = solve(problem, {.count = 5});
  EXPECT_EQ(result.status, SolveStatus::optimal);
  EXPECT_EQ(result.solutions.size(), 2u);
}

TEST(SolverTest, LayersDifferByAnyOfTheirSlots) {
  const Problem problem = random_problem({.layers = 2, .attention = 2, .ffn = 2, .spans = 1, .limits = 0}, 1);
  // Layer 0: entries 0, 1 | 2, 3, then the span 4; layer 1: 5, 6 | 7, 8.
  const Solution a = evaluate(problem, {0, 2, 5, 7}), b = evaluate(problem, {0, 3, 5, 7}),
                 span = evaluate(problem, {4});
  EXPECT_EQ(layers_that_differ(problem, a, a), 0);
  EXPECT_EQ(layers_that_differ(problem, a, b), 1);
  EXPECT_EQ(layers_that_differ(problem, a, span), 2);
}

TEST(SolverTest, AnswersDoNotDependOnTheOrderOfEntries) {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    // Whole numbers: several students have the best objective.
    const Problem problem =
        random_problem({.layers = 6, .pairs = 2, .limits = 2, .tightness = 0.4, .whole_numbers = true}, seed);
    Problem shuffled = problem;
    std::shuffle(shuffled.entries.begin(), shuffled.entries.end(), std::mt19937(seed));
    const SolveResult a = solve(problem, {.count = 2}), b = solve(shuffled, {.count = 2});
    ASSERT_EQ(a.solutions.size(), 2u);
    ASSERT_EQ(b.solutions.size(), 2u);
    for (size_t i = 0; i < 2; ++i) EXPECT_EQ(rows_of(problem, a.solutions[i]), rows_of(shuffled, b.solutions[i]));
  }
}

// A price is what one more unit of a limit saves, by the relaxation: between 2 and 4 bytes, 3 of objective a byte.
TEST(SolverTest, PricesAreWhatALimitSaves) {
  Problem problem{.layer_count = 1, .entries = {}, .limits = {{"memory", "byte", 3, 0}, {"latency", "s", 9, 0}}};
  problem.entries = {{.row = 0, .slots = {0, 1}, .objective = 8, .costs = {2, 1}},
                     {.row = 1, .slots = {0, 1}, .objective = 2, .costs = {4, 1}}};
  const Solution solution = solve(problem).solutions.at(0);
  ASSERT_EQ(solution.prices.size(), 2u);
  EXPECT_NEAR(solution.prices[0], 3, 1e-9);
  EXPECT_EQ(solution.prices[1], 0);
}

TEST(SolverTest, WithinAGapIsFeasibleAndHasThatBound) {
  const Problem problem = random_problem({.layers = 30, .attention = 4, .ffn = 5, .limits = 3, .tightness = 0.3}, 1);
  const double best = solve(problem).solutions.at(0).objective;
  const SolveResult result = solve(problem, {.gap = 0.02});
  ASSERT_EQ(result.status, SolveStatus::feasible);
  const Solution& found = result.solutions.at(0);
  EXPECT_LE(found.bound, best);
  EXPECT_GE(found.bound, found.objective * 0.98 * (1 - 1e-12));
}

TEST(SolverTest, UnitsDoNotMatter) {  // memory in bytes beside times in microseconds
  Problem problem = random_problem({.layers = 8, .limits = 2, .tightness = 0.3}, 5);
  const std::vector<int64_t> rows = rows_of(problem, solve(problem).solutions.at(0));
  for (Entry& entry : problem.entries) {
    entry.objective *= 0x1p-30;
    entry.costs[0] *= 0x1p33, entry.costs[1] *= 0x1p-20;
  }
  for (size_t k = 0; k < 2; ++k) {
    problem.limits[k].maximum *= k == 0 ? 0x1p33 : 0x1p-20;
    problem.limits[k].fixed *= k == 0 ? 0x1p33 : 0x1p-20;
  }
  EXPECT_EQ(rows_of(problem, solve(problem).solutions.at(0)), rows);
}

// The best students cost 2^40 + 1 bytes, 1 more than allowed: far within the tolerance of any LP solver.
TEST(SolverTest, LimitsHoldToTheLastByte) {
  Problem problem{.layer_count = 1, .entries = {}, .limits = {{"memory", "byte", 0x1p40, 0}}};
  problem.entries = {{.row = 0, .slots = {0}, .objective = 0, .costs = {0x1p39}},
                     {.row = 1, .slots = {0}, .objective = 1, .costs = {0x1p39 - 1}},
                     {.row = 2, .slots = {1}, .objective = 0, .costs = {0x1p39 + 1}},
                     {.row = 3, .slots = {1}, .objective = 5, .costs = {0}}};
  EXPECT_EQ(rows_of(problem, solve(problem).solutions.at(0)), (std::vector<int64_t>{1, 2}));
  problem.limits[0].maximum += 1;
  EXPECT_EQ(rows_of(problem, solve(problem).solutions.at(0)), (std::vector<int64_t>{0, 2}));
}

TEST(SolverTest, SmallDifferencesBesideOutliersCount) {
  // 1e-6 decides, beside a score of 457.
  Problem problem{.layer_count = 1, .entries = {}, .limits = {{"memory", "byte", 10, 0}}};
  problem.entries = {{.row = 0, .slots = {0}, .objective = 0.054001, .costs = {4}},
                     {.row = 1, .slots = {0}, .objective = 0.054, .costs = {5}},
                     {.row = 2, .slots = {0}, .objective = 457, .costs = {0}},
                     {.row = 3, .slots = {1}, .objective = 0.02, .costs = {5}},
                     {.row = 4, .slots = {1}, .objective = 33, .costs = {0}}};
  EXPECT_EQ(rows_of(problem, solve(problem).solutions.at(0)), (std::vector<int64_t>{1, 3}));
}

TEST(SolverTest, InfeasibleSaysWhatWouldDo) {
  Problem problem{.layer_count = 1, .entries = {}, .limits = {{"memory", "byte", 10, 3}, {"latency", "s", 2, 0}}};
  problem.entries = {{.row = 0, .slots = {0}, .costs = {1, 9}},
                     {.row = 1, .slots = {0}, .costs = {8, 0.5}},
                     {.row = 2, .slots = {1}, .costs = {1, 1}}};
  const SolveResult result = solve(problem);
  ASSERT_EQ(result.status, SolveStatus::infeasible);
  ASSERT_EQ(result.conflicts.size(), 2u);
  EXPECT_EQ(result.conflicts[0].smallest, 5);  // each alone can be met,
  EXPECT_EQ(result.conflicts[1].smallest, 1.5);
  EXPECT_EQ(result.conflicts[0].smallest_with_others, 12);  // together they cannot
  EXPECT_EQ(result.conflicts[1].smallest_with_others, 10);
  EXPECT_TRUE(result.conflicts[0].is_needed && result.conflicts[1].is_needed);
  // Rows 1 and 2 are 2 bytes beyond 10; rows 0 and 2 would be 8 s beyond 2.
  EXPECT_EQ(rows_of(problem, result.nearest.solution.at(0)), (std::vector<int64_t>{1, 2}));
  EXPECT_DOUBLE_EQ(result.nearest.excess, 0.2);
  EXPECT_EQ(result.nearest.bound, result.nearest.excess);

  problem.limits[0].maximum = 4;
  problem.limits[1].tokens = 20;  // at least 10 tokens a second
  const SolveResult worse = solve(problem);
  ASSERT_EQ(worse.status, SolveStatus::infeasible);
  EXPECT_EQ(worse.conflicts[1].smallest_with_others, kInfinity);
  EXPECT_TRUE(worse.conflicts[0].is_needed);  // nothing keeps it, whatever the other
  EXPECT_FALSE(worse.conflicts[1].is_needed);
  EXPECT_EQ(worse.conflicts[0].smallest, 5);
}

// The cheap attention of one layer is the dear one of the other: who saves bytes has both variants, and the FFN's.
TEST(SolverTest, InfeasibleSaysHowManyVariantsWouldDo) {
  Problem problem{.layer_count = 2, .entries = {}, .limits = {{"memory", "byte", 4, 0}}, .most_variants = 2};
  problem.entries = {
      {.row = 0, .slots = {0}, .costs = {1}, .variants = {0}}, {.row = 1, .slots = {0}, .costs = {9}, .variants = {1}},
      {.row = 2, .slots = {2}, .costs = {9}, .variants = {0}}, {.row = 3, .slots = {2}, .costs = {1}, .variants = {1}},
      {.row = 4, .slots = {1}, .costs = {1}, .variants = {2}}, {.row = 5, .slots = {3}, .costs = {1}, .variants = {2}}};
  const SolveResult result = solve(problem);
  ASSERT_EQ(result.status, SolveStatus::infeasible);
  EXPECT_EQ(result.variants_conflict.fewest_with_others, 3);
  EXPECT_TRUE(result.variants_conflict.is_needed && result.variants_conflict.is_proven);
  EXPECT_TRUE(result.conflicts.at(0).is_needed);
  EXPECT_EQ(result.conflicts[0].smallest, 4);  // by any student, of however many variants
  EXPECT_EQ(result.conflicts[0].smallest_with_others, 12);
  problem.limits[0].maximum = 3;  // more variants alone would not do
  EXPECT_EQ(solve(problem).variants_conflict.fewest_with_others, 0);
  problem.limits[0].maximum = 100, problem.most_variants = 1;
  const SolveResult one = solve(problem);  // without any conflict between limits
  EXPECT_EQ(one.variants_conflict.fewest_with_others, 2);
  EXPECT_FALSE(one.conflicts.at(0).is_needed);
  EXPECT_EQ(one.conflicts[0].smallest_with_others, kInfinity);
  EXPECT_TRUE(one.nearest.solution.empty());
}

TEST(SolverTest, RulesThatLeaveASlotEmptyAreInfeasible) {
  Problem problem{.layer_count = 1, .entries = {}, .limits = {{"memory", "byte", 4, 0}}};
  problem.entries = {{.row = 0, .slots = {1}, .costs = {1}}};
  problem.rules = {"all but row 1", "all but row 2", "of no importance"};
  problem.taken_out = {{{.row = 1, .slots = {0}, .costs = {1}}, {1}}, {{.row = 2, .slots = {0}, .costs = {9}}, {0}}};
  const SolveResult result = solve(problem);
  ASSERT_EQ(result.status, SolveStatus::infeasible);
  ASSERT_EQ(result.rule_conflicts.size(), 3u);
  EXPECT_TRUE(result.rule_conflicts[0].is_needed && result.rule_conflicts[1].is_needed);
  EXPECT_FALSE(result.rule_conflicts[2].is_needed || result.rule_conflicts[2].is_enough);
  EXPECT_TRUE(result.rule_conflicts[1].is_enough);   // then row 1 is there, of 2 bytes
  EXPECT_FALSE(result.rule_conflicts[0].is_enough);  // row 2 takes more than the limit
  EXPECT_FALSE(result.conflicts.at(0).is_needed);
  EXPECT_EQ(result.conflicts[0].smallest, 2);
  EXPECT_TRUE(result.nearest.solution.empty());
  problem.taken_out.clear();
  EXPECT_THAT(message_of([&] { solve(problem); }), HasSubstr("no replacement with all its scores"));
}

TEST(SolverTest, NoExactCoverIsInfeasible) {
  Problem problem{.layer_count = 3, .entries = {}, .limits = {}};
  problem.entries = {{.row = 0, .slots = {0, 1, 2, 3}}, {.row = 1, .slots = {2, 3, 4, 5}}};
  EXPECT_EQ(solve(problem).status, SolveStatus::infeasible);
}

TEST(SolverTest, RunningOutOfTimeIsAStatus) {
  const Problem problem = random_problem({.layers = 60, .attention = 6, .ffn = 9, .limits = 3, .tightness = 0.3}, 3);
  const SolveResult result = solve(problem, {.count = 3, .seconds_at_most = 1e-3});
  EXPECT_THAT(result.status, ::testing::AnyOf(SolveStatus::feasible, SolveStatus::not_found));
  for (const Solution& s : result.solutions) {
    EXPECT_TRUE(keeps_limits(problem, s));
    EXPECT_LE(s.bound, s.objective);
  }
}

TEST(SolverTest, NothingIsPrinted) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  solve(random_problem({.layers = 10, .pairs = 2, .limits = 2, .tightness = 0.3}, 1),
        {.count = 2, .min_difference = 0.2});
  solve(random_problem({.tightness = -1}, 1));
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST(SolverTest, MalformedProblemsAreRefused) {
  const auto refused = [](auto&& change, const SolverOptions& options = {}) -> std::string {
    Problem problem = random_problem({.layers = 2}, 1);
    change(problem);
    try {
      solve(problem, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was refused";
  };
  EXPECT_THAT(refused([](auto& p) { p.layer_count = 0; }), HasSubstr("0 layers"));
  EXPECT_THAT(refused([](auto& p) { p.entries[1].row = 0; }), HasSubstr("row 0 is two entries"));
  EXPECT_THAT(refused([](auto& p) { p.entries[1].costs.clear(); }), HasSubstr("row 1 has 0 costs"));
  EXPECT_THAT(refused([](auto& p) { p.entries[1].objective = NAN; }), HasSubstr("row 1 has a score or cost"));
  EXPECT_THAT(refused([](auto& p) { p.entries[1].costs[0] = INFINITY; }), HasSubstr("row 1 has a score or cost"));
  EXPECT_THAT(refused([](auto& p) { p.entries[1].slots = {}; }), HasSubstr("row 1 fills nothing"));
  EXPECT_THAT(refused([](auto& p) { p.entries[1].slots = {4}; }), HasSubstr("slot 4 of 4"));
  EXPECT_THAT(refused([](auto& p) { p.entries[1].slots = {1, 0}; }), HasSubstr("ascend"));
  EXPECT_THAT(refused([](auto& p) { p.limits[0].maximum = NAN; }), HasSubstr("limit 0 is nan"));
  EXPECT_THAT(refused([](auto& p) { p.entries.erase(p.entries.begin() + 3, p.entries.begin() + 6); }),
              HasSubstr("for the ffn of layer 0"));
  EXPECT_THAT(refused([](auto&) {}, {.count = 0}), HasSubstr("0 solutions"));
  EXPECT_THAT(refused([](auto&) {}, {.nodes_more = 0}), HasSubstr("0 subproblems"));
  EXPECT_THAT(refused([](auto&) {}, {.gap = -1}), HasSubstr("gap of -1"));
  EXPECT_THAT(refused([](auto&) {}, {.prices = {1, 2}}), HasSubstr("2 prices to begin from; there are 1 limits"));
  EXPECT_THAT(refused([](auto&) {}, {.prices = {-1}}), HasSubstr("a price of -1"));
  EXPECT_THAT(refused([](auto& p) { p.most_variants = -1; }), HasSubstr("at most -1 variants"));
  EXPECT_THAT(refused([](auto&) {}, {.min_difference = 1.5}), HasSubstr("1.5 of the layers"));
  EXPECT_THROW(evaluate(random_problem({.layers = 1}, 1), {0, 1}), Error);
}

}  // namespace
}  // namespace tangram
