#include "puzzle/table_frontier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace tangram {
namespace {

using ::testing::HasSubstr;

/// Three layers of three attentions and two FFNs, each with random costs at three batch sizes, and a second scenario.
ScoreTable random_table(uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0.2, 1);
  ScoreTable table{.layer_count = 3};
  add_metric(table, {"kl_divergence", "nats", false, 0});
  for (const int64_t batch : {1, 4, 16})
    add_scenario(table, {fmt::format("chat@{}", batch), 4, 8, batch, Precision::bf16});
  add_scenario(table, {"read", 64, 1, 2, Precision::bf16});
  const auto row = [&](int64_t layer, const char* attention, const char* ffn, double size) {
    TableRow& r = row_of(table, layer, 1, attention, ffn);
    r.teacher = size == 1;
    r.values = {r.teacher ? 0 : (1 - size) * uniform(random)};
    r.standard_errors = {0};
    r.parameters = size;
    const double bytes = 100 * size * uniform(random);
    for (size_t s = 0; s < 4; ++s)
      r.costs[s] = {bytes, 0.1 * bytes * double(table.scenarios[s].concurrency), size * uniform(random),
                    size * uniform(random) * std::sqrt(double(table.scenarios[s].concurrency))};
  };
  for (int64_t layer = 0; layer < 3; ++layer) {
    row(layer, "gqa_4", "", 1), row(layer, "gqa_2", "", 0.6), row(layer, "gqa_1", "", 0.3);
    row(layer, "", "ffn_64", 1), row(layer, "", "ffn_32", 0.5);
  }
  table.outside_parameters = 0;
  table.outside.assign(4, {5, 0, 0.1, 0.1});
  table.workspace_bytes.assign(4, 3);
  return table;
}

/// Calls `visit` with the rows of every student.
void for_every_student(const ScoreTable& table, const std::function<void(const std::vector<int64_t>&)>& visit) {
  std::vector<int64_t> rows;
  const std::function<void(int32_t)> fill = [&](int32_t slot) {
    if (slot == 2 * table.layer_count) return visit(rows);
    for (size_t r = 0; r < table.rows.size(); ++r)
      if (slots_of(table.rows[r])[0] == slot) {
        rows.push_back(int64_t(r));
        fill(slot + 1);
        rows.pop_back();
      }
  };
  fill(0);
}

double loss_of(const ScoreTable& table, const std::vector<int64_t>& rows) {
  double loss = 0;
  for (const int64_t r : rows) loss += table.rows[size_t(r)].values[0];
  return loss;
}

// Whether a figure keeps a limit; of equal ones, rounding may favour either.
bool keeps_bound(Quantity q, double value, double bound) {
  return q == Quantity::throughput ? value >= bound * (1 - 1e-12) : value <= bound * (1 + 1e-12);
}

// Every student at every batch size, by the figures that are reported of it.
TEST(TableFrontierTest, EveryPointTakesTheBestBatchSize) {
  int changes = 0;
  for (uint32_t seed = 0; seed < 12; ++seed)
    for (const auto& [moved, other, part] : {std::tuple(Quantity::memory, Quantity::throughput, 3.0),
                                             {Quantity::throughput, Quantity::memory, 0.8},
                                             {Quantity::parameters, Quantity::time_per_output_token, 1.2}}) {
      SCOPED_TRACE(fmt::format("{} {}", seed, name_of(moved)));
      const ScoreTable table = random_table(seed);
      const double bound = part * figure(table, teacher_rows(table), other, 0);
      const std::string scenario = moved == Quantity::parameters ? "" : "chat";
      const TableFrontier traced = trace_frontier(
          table, {.metric = "kl_divergence", .constraints = {{other, "chat", bound}, {Quantity::latency, "read", 6}}},
          moved_limit(moved, scenario), {.points = 15, .solver = {}});
      EXPECT_EQ(traced.choices.size(), 3u);
      EXPECT_TRUE(traced.frontier.is_proven);
      ASSERT_EQ(traced.frontier.points.size(), 15u);
      const FrontierPoint* before = nullptr;
      for (const FrontierPoint& point : traced.frontier.points) {
        const Problem& problem = traced.problems[point.problem];
        const double limit = shown_on_frontier(problem.limits[traced.limit], point.maximum);
        double best = std::numeric_limits<double>::infinity();
        for_every_student(table, [&](const std::vector<int64_t>& rows) {
          if (figure(table, rows, Quantity::latency, 3) > 6) return;
          for (size_t s = 0; s < 3; ++s)
            if (keeps_bound(other, figure(table, rows, other, s), bound) &&
                keeps_bound(moved, figure(table, rows, moved, s), limit))
              best = std::min(best, loss_of(table, rows));
        });
        EXPECT_NEAR(point.solution.objective, best, 1e-12);
        const std::vector<int64_t> rows = rows_of(problem, point.solution);
        const size_t batch = traced.choices[point.problem][0];
        EXPECT_TRUE(keeps_bound(moved, figure(table, rows, moved, batch), limit));
        EXPECT_TRUE(keeps_bound(other, figure(table, rows, other, batch), bound));
        changes += before && before->problem != point.problem;
        before = &point;
      }
      EXPECT_EQ(traced.name_of_limit(0), fmt::format("{} (chat)", name_of(other)));
      EXPECT_EQ(traced.name_of_limit(1), "latency (read)");
    }
  EXPECT_GT(changes, 10);
}

TEST(TableFrontierTest, RefusesWhatIsNotOneLimit) {
  const ScoreTable table = random_table(1);
  const auto message = [&](const Constraint& moved, std::vector<Constraint> constraints) {
    try {
      trace_frontier(table, {.metric = "kl_divergence", .constraints = std::move(constraints)}, moved, {});
    } catch (const Error& e) {
      EXPECT_EQ(e.failure, Failure::bad_input);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(message(moved_limit(Quantity::memory, ""), {}), HasSubstr("2 scenarios; say which, such as chat.memory"));
  EXPECT_THAT(message(moved_limit(Quantity::memory, "chat"), {{Quantity::memory, "chat", 50}}),
              HasSubstr("leave the limit on chat.memory out"));
  EXPECT_THAT(message(moved_limit(Quantity::memory, "chta"), {}), HasSubstr("no scenario 'chta'"));
}

}  // namespace
}  // namespace tangram
