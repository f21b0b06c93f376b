#include "puzzle/limits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "puzzle/solver.h"

namespace tangram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// One layer. Two scenarios; figures small enough to add up in the head.
ScoreTable example() {
  ScoreTable table{.layer_count = 1};
  add_metric(table, {"kl_divergence", "nats", false, 0});
  add_metric(table, {"top_1", "1", true, 0.75});
  add_metric(table, {"lm_loss", "nats", false, 2});
  add_scenario(table, {"chat", 10, 5, 4, Precision::bf16});
  add_scenario(table, {"long", 100, 50, 2, Precision::bf16});
  const auto row = [&](const char* attention, const char* ffn, std::vector<double> values, double weights, double cache,
                       double seconds) {
    TableRow& r = row_of(table, 0, 1, attention, ffn);
    r.values = std::move(values);
    r.parameters = weights / 2;
    r.costs[0] = {weights, cache, seconds, 2 * seconds};
    r.costs[1] = {weights, 10 * cache, 10 * seconds, 20 * seconds};
  };
  row("gqa_4", "", {kMissing, kMissing, kMissing}, 40, 8, 1);  // the teacher's own need no score
  row("gqa_2", "", {0.25, 0.5, 2.5}, 30, 4, 0.75);
  row("", "ffn_64", {kMissing, kMissing, kMissing}, 100, 0, 2);
  row("", "ffn_32", {0.5, 0.25, 1.75}, 50, 0, 1);
  row("no_op", "ffn_64", {4, 0.125, 3}, 100, 0, 2);
  table.rows[0].teacher = table.rows[2].teacher = true;
  table.outside_parameters = 7;
  table.outside[0] = {14, 0, 0.5, 0.5};
  table.outside[1] = {14, 0, 5, 5};
  table.workspace_bytes = {6, 60};
  return table;
}

LinearLimit limit_of(const ScoreTable& table, const Constraint& constraint) {
  return make_problem(table, "kl_divergence", {{constraint}}).problem.limits.at(0);
}

TEST(LimitsTest, MemoryIsWeightsCacheAndWorkspace) {
  const TableProblem made = make_problem(example(), "kl_divergence", {{{Quantity::memory, "chat", 500}}});
  EXPECT_EQ(made.problem.limits[0].name, "memory (chat)");
  EXPECT_EQ(made.problem.limits[0].maximum, 500);
  EXPECT_EQ(made.problem.limits[0].fixed, 14 + 6);
  std::vector<double> costs;
  for (const Entry& entry : made.problem.entries) costs.push_back(entry.costs[0]);
  EXPECT_THAT(costs, ElementsAre(48, 34, 100, 50, 100));
}

// The limit holds whichever rows are chosen; a student's own figure has the workspace of its largest row.
TEST(LimitsTest, WorkspaceIsTheLargestRowsOwn) {
  ScoreTable table = example();
  const double own[] = {3, 2, 6, 4, 6};
  for (size_t r = 0; r < table.rows.size(); ++r) table.rows[r].costs[0].workspace_bytes = own[r];
  EXPECT_EQ(limit_of(table, {Quantity::memory, "chat", 500}).fixed, 14 + 6);
  EXPECT_EQ(figure(table, teacher_rows(table), Quantity::memory, 0), 168);
  const std::vector<int64_t> student = {1, 3};
  EXPECT_EQ(figure(table, student, Quantity::memory, 0), 34 + 50 + 14 + 4);
  table.rows[3].costs[0].workspace_bytes = kMissing;
  EXPECT_EQ(figure(table, student, Quantity::memory, 0), 34 + 50 + 14 + 6) << "one is not known";
}

TEST(LimitsTest, NoScenarioMeansEachOfThem) {
  const TableProblem made = make_problem(example(), "kl_divergence", {{{.quantity = Quantity::memory, .bound = 500}}});
  ASSERT_EQ(made.problem.limits.size(), 2u);
  EXPECT_EQ(made.problem.limits[1].name, "memory (long)");
  EXPECT_EQ(made.problem.limits[1].fixed, 14 + 60);
  EXPECT_THAT(made.problem.entries[0].costs, ElementsAre(48, 120));
}

TEST(LimitsTest, ThroughputBoundsTheTime) {
  // 4 sequences of 5 output tokens; at least 2 tokens/s means at most 10 s, of which 1 is outside the blocks.
  const LinearLimit limit = limit_of(example(), {Quantity::throughput, "chat", 2});
  EXPECT_EQ(limit.maximum, 10);
  EXPECT_EQ(limit.fixed, 1);
  EXPECT_EQ(limit.tokens, 20);
  const LinearLimit latency = limit_of(example(), {Quantity::latency, "chat", 9});
  EXPECT_EQ(latency.maximum, 9);
  EXPECT_EQ(latency.fixed, 1);
}

// By hand: the teacher in chat has 3 s of prefill and 6 s of decode in its blocks, half a second each outside; the
// first of 5 tokens comes from the prefill.
TEST(LimitsTest, PrefillDecodeAndCacheCanBeLimitedApart) {
  const ScoreTable table = example();
  const std::vector<int64_t> teacher = teacher_rows(table);
  EXPECT_EQ(figure(table, teacher, Quantity::time_to_first_token, 0), 3.5);
  EXPECT_EQ(figure(table, teacher, Quantity::time_per_output_token, 0), 6.5 / 4);
  EXPECT_EQ(figure(table, teacher, Quantity::kv_cache, 0), 8);
  const LinearLimit first = limit_of(table, {Quantity::time_to_first_token, "chat", 3});
  EXPECT_EQ(first.name, "time_to_first_token (chat)");
  EXPECT_EQ(first.maximum, 3);
  EXPECT_EQ(first.fixed, 0.5);
  const LinearLimit step = limit_of(table, {Quantity::time_per_output_token, "chat", 0.5, true});
  EXPECT_EQ(step.maximum, 6.5 / 8);
  EXPECT_EQ(step.fixed, 0.125);
  EXPECT_EQ(limit_of(table, {Quantity::kv_cache, "long", 7}).fixed, 0);
}

// By hand: 1.5 * 3.5 + 2 * 6.5 = 18.25 s.
TEST(LimitsTest, WholeModelsAreSumsTimesTheirFactors) {
  ScoreTable table = example();
  table.sources[0] = {"measured", 1.5, 2, 0.25, 0.5};
  const std::vector<int64_t> teacher = teacher_rows(table);
  EXPECT_EQ(figure(table, teacher, Quantity::latency, 0), 18.25);
  EXPECT_EQ(figure(table, teacher, Quantity::throughput, 0), 20 / 18.25);
  EXPECT_EQ(figure(table, teacher, Quantity::time_to_first_token, 0), 5.25);
  EXPECT_EQ(figure(table, teacher, Quantity::memory, 0), 168);
  EXPECT_EQ(figure_error(table, teacher, Quantity::time_to_first_token, 0), 0.25);
  EXPECT_DOUBLE_EQ(figure_error(table, teacher, Quantity::latency, 0), (0.25 * 5.25 + 0.5 * 13) / 18.25);
  EXPECT_EQ(figure_error(table, teacher, Quantity::memory, 0), 0);
  EXPECT_TRUE(std::isnan(figure_error(table, teacher, Quantity::latency, 1)));
  const TableProblem made = make_problem(table, "kl_divergence", {{{Quantity::latency, "chat", 9}}});
  EXPECT_EQ(made.problem.limits[0].fixed, 0.5 * 1.5 + 0.5 * 2);
  EXPECT_EQ(made.problem.entries[0].costs[0], 1 * 1.5 + 2 * 2);
}

TEST(LimitsTest, ThroughputIsForEachDevice) {
  ScoreTable table = example();
  table.scenarios[0].tensor_parallel = 4;
  EXPECT_EQ(figure(table, teacher_rows(table), Quantity::throughput, 0), 0.5);
  EXPECT_EQ(limit_of(table, {Quantity::throughput, "chat", 2}).maximum, 2.5);
}

TEST(LimitsTest, AFreeBatchSizeIsChosenForEachGroupThatIsLimited) {
  ScoreTable table = example();
  table.scenarios[0].name = "chat@4";
  add_scenario(table, {"chat@8", 10, 5, 8, Precision::bf16});
  table.rows[0].costs[2] = table.rows[2].costs[2] = table.outside[2] = {1, 1, 1, 1};
  table.workspace_bytes[2] = 1;
  using Choices = std::vector<std::vector<size_t>>;
  const auto choices = [&](const std::vector<Constraint>& constraints) { return batch_choices(table, constraints); };
  EXPECT_EQ(choices({{Quantity::latency, "chat", 1}}), (Choices{{0}, {2}}));
  EXPECT_EQ(choices({{Quantity::latency, "chat@8", 1}, {Quantity::latency, "long", 1}}), (Choices{{1, 2}}));
  EXPECT_EQ(choices({{.quantity = Quantity::memory, .bound = 1}}), (Choices{{0, 1}, {2, 1}}));
  EXPECT_EQ(choices({{.quantity = Quantity::parameters, .bound = 1}}), (Choices{{}}));
  EXPECT_THROW(choices({{Quantity::latency, "chit", 1}}), Error);
  const std::vector<Constraint> latency = {{Quantity::latency, "chat", 9}};
  EXPECT_THROW(make_problem(table, "kl_divergence", latency), Error) << "which of the two?";
  const std::vector<size_t> eight = {2};
  EXPECT_EQ(make_problem(table, "kl_divergence", latency, eight).problem.limits.at(0).name, "latency (chat@8)");
}

TEST(LimitsTest, RelativeBoundsCountTheTeacher) {
  const ScoreTable table = example();
  // Teacher in chat: 40 + 8 + 100 + 14 + 6 = 168 bytes, (1 + 2) * 3 + 1 = 10 s, 2 tokens/s; 20 + 50 + 7 parameters.
  EXPECT_EQ(figure(table, teacher_rows(table), Quantity::memory, 0), 168);
  EXPECT_EQ(figure(table, teacher_rows(table), Quantity::latency, 0), 10);
  EXPECT_EQ(figure(table, teacher_rows(table), Quantity::throughput, 0), 2);
  EXPECT_EQ(figure(table, teacher_rows(table), Quantity::parameters, 0), 77);
  EXPECT_EQ(limit_of(table, {Quantity::memory, "chat", 0.5, true}).maximum, 84);
  EXPECT_EQ(limit_of(table, {Quantity::throughput, "chat", 2, true}).maximum, 5);
  EXPECT_EQ(limit_of(table, {Quantity::latency, "chat", 0.5, true}).maximum, 5);
  EXPECT_EQ(limit_of(table, {Quantity::parameters, "", 0.5, true}).maximum, 38.5);
  EXPECT_EQ(limit_of(table, {Quantity::parameters, "", 0.5, true}).name, "parameters");
}

TEST(LimitsTest, TheTeacherKeepsLimitsOfOneTeacher) {
  const ScoreTable table = example();
  std::vector<Constraint> constraints;
  for (const Quantity q : {Quantity::memory, Quantity::parameters, Quantity::throughput, Quantity::latency})
    constraints.push_back({.quantity = q, .bound = 1, .relative = true});
  const TableProblem made = make_problem(table, "kl_divergence", constraints);
  EXPECT_EQ(made.problem.limits.size(), 7u);
  const Solution best = solve(made.problem).solutions.at(0);
  EXPECT_EQ(rows_of(made.problem, best), teacher_rows(table));
  EXPECT_EQ(best.objective, 0);
}

TEST(LimitsTest, ObjectivesAreChangesFromTheTeacher) {
  const ScoreTable table = example();
  const auto objectives = [&](const char* metric) {
    std::vector<double> values;
    for (const Entry& entry : make_problem(table, metric, {}).problem.entries) values.push_back(entry.objective);
    return values;
  };
  EXPECT_THAT(objectives("kl_divergence"), ElementsAre(0, 0.25, 0, 0.5, 4));
  EXPECT_THAT(objectives("lm_loss"), ElementsAre(0, 0.5, 0, -0.25, 1));
  EXPECT_THAT(objectives("top_1"), ElementsAre(0, 0.25, 0, 0.5, 0.625));  // higher is better
  Solution solution;
  solution.objective = 0.25;
  EXPECT_EQ(predicted(table.metrics[1], solution), 0.5);
  EXPECT_EQ(predicted(table.metrics[2], solution), 2.25);
}

TEST(LimitsTest, EntriesFillTheirSlotsAndKnowTheirKind) {
  ScoreTable table = example();
  table.layer_count = 3;
  row_of(table, 1, 2, "gqa_4", "ffn_64").values.assign(3, 1);
  row_of(table, 2, 1, "gqa_2", "").values.assign(3, 1);
  const std::vector<Entry> entries = make_problem(table, "kl_divergence", {}).problem.entries;
  EXPECT_THAT(entries[1].slots, ElementsAre(0));
  EXPECT_THAT(entries[3].slots, ElementsAre(1));
  EXPECT_THAT(entries[4].slots, ElementsAre(0, 1));
  EXPECT_THAT(entries[5].slots, ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(entries[6].slots, ElementsAre(4));
  EXPECT_EQ(entries[6].kind, entries[1].kind);
  EXPECT_NE(entries[0].kind, entries[1].kind);
  EXPECT_NE(entries[2].kind, entries[3].kind);
}

TEST(LimitsTest, RowsWithoutScoreOrLimitedCostAreLeftOutAndCounted) {
  ScoreTable table = example();
  table.rows[1].values[0] = INFINITY;
  table.rows[3].costs[1].kv_cache_bytes = kMissing;
  const std::vector<Constraint> chat = {{Quantity::memory, "chat", 500}}, both = {{.bound = 500}};
  EXPECT_THAT(make_problem(table, "kl_divergence", chat).left_out, ElementsAre(1));
  EXPECT_THAT(make_problem(table, "kl_divergence", both).left_out, ElementsAre(1, 3));
  EXPECT_THAT(make_problem(table, "top_1", chat).left_out, ElementsAre());
}

// By hand: 34 + 100 + 20 = 154 bytes costs 0.25, 48 + 50 + 20 = 118 costs 0.5, 34 + 50 + 20 = 104 costs 0.75.
TEST(LimitsTest, SearchFromTableToRows) {
  const ScoreTable table = example();
  const auto rows = [&](double bytes) {
    const Problem problem = make_problem(table, "kl_divergence", {{{Quantity::memory, "chat", bytes}}}).problem;
    return rows_of(problem, solve(problem).solutions.at(0));
  };
  EXPECT_THAT(rows(167), ElementsAre(1, 2));
  EXPECT_THAT(rows(153), ElementsAre(0, 3));
  EXPECT_THAT(rows(117), ElementsAre(1, 3));
}

TEST(LimitsTest, WhatCannotBeIsRefused) {
  const auto refused = [](const Constraint& constraint, auto&& change,
                          const char* metric = "kl_divergence") -> std::string {
    ScoreTable table = example();
    change(table);
    try {
      make_problem(table, metric, {{constraint}});
    } catch (const Error& error) {
      EXPECT_EQ(error.failure, Failure::bad_input);
      return error.what();
    }
    return "nothing was refused";
  };
  const auto nothing = [](ScoreTable&) {};
  EXPECT_THAT(refused({Quantity::memory, "chta", 1}, nothing), HasSubstr("did you mean 'chat'?"));
  EXPECT_THAT(refused({Quantity::memory, "chat", 1}, nothing, "kl"), HasSubstr("no metric 'kl'"));
  EXPECT_THAT(refused({Quantity::memory, "chat", 0}, nothing), HasSubstr("memory (chat) of 0; must be above 0"));
  EXPECT_THAT(refused({Quantity::throughput, "chat", NAN}, nothing), HasSubstr("must be above 0"));
  EXPECT_THAT(refused({Quantity::latency, "chat", 1}, [](auto& t) { t.outside[0].decode_seconds = kMissing; }),
              HasSubstr("no latency (chat) of what is outside the blocks"));
  EXPECT_THAT(refused({Quantity::memory, "chat", 1, true}, [](auto& t) { t.rows[2].teacher = false; }),
              HasSubstr("no row for the teacher's own ffn of layer 0"));
  EXPECT_THAT(refused({Quantity::memory, "chat", 1, true}, [](auto& t) { t.rows[2].costs[0] = {}; }),
              HasSubstr("no memory (chat) of the teacher"));
  EXPECT_THAT(refused({Quantity::memory, "chat", 1}, [](auto& t) { t.metrics[0].teacher = kMissing; }),
              HasSubstr("no kl_divergence of the teacher itself"));
  EXPECT_THAT(refused({.bound = 1}, [](auto& t) { t.scenarios.clear(); }), HasSubstr("needs a scenario"));
}

}  // namespace
}  // namespace tangram
