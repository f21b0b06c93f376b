#include "puzzle/context_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/random.h"
#include "puzzle/limits.h"

namespace tangram {
namespace {

using ::testing::ElementsAre;

/// Four layers with two kinds of attention and three FFNs each, one pair in layer 1 and a span over layers 2 and 3.
/// Rows: 5 a layer (0 and 2 the teacher's own), then the pair (20) and the span (21).
ScoreTable example() {
  ScoreTable table{.layer_count = 4};
  add_metric(table, {"kl_divergence", "nats", false, 0});
  add_scenario(table, {"chat", 4, 4, 1, Precision::f32});
  const auto row = [&](int64_t layer, int64_t layers, const char* attention, const char* ffn, double bytes) {
    TableRow& r = row_of(table, layer, layers, attention, ffn);
    r.teacher = bytes == 10;
    r.parameters = bytes;
    r.costs[0] = {bytes, 0, 0, 0};
  };
  for (int64_t layer = 0; layer < 4; ++layer) {
    row(layer, 1, "gqa_2", "", 10), row(layer, 1, "no_op", "", 0);
    row(layer, 1, "", "ffn_64", 10), row(layer, 1, "", "ffn_32", 5), row(layer, 1, "", "ffn_16", 2);
  }
  row(1, 1, "no_op", "ffn_64", 11);
  row(2, 2, "gqa_2", "ffn_64", 20);
  table.outside_parameters = 0, table.outside = {{0, 0, 0, 0}}, table.workspace_bytes = {0};
  return table;
}

constexpr int64_t kPair = 20, kSpan = 21;
const std::vector<int64_t> kTeacher = {0, 2, 5, 7, 10, 12, 15, 17};

TEST(ContextSearch, AnEntryTakesThePlaceOfWhatItDisplaces) {
  const ScoreTable table = example();
  EXPECT_EQ(placed(table, kTeacher, 1), (std::vector<int64_t>{1, 2, 5, 7, 10, 12, 15, 17}));
  EXPECT_EQ(placed(table, kTeacher, kPair), (std::vector<int64_t>{0, 2, kPair, 10, 12, 15, 17}));
  const std::vector<int64_t> with_span = placed(table, kTeacher, kSpan);
  EXPECT_EQ(with_span, (std::vector<int64_t>{0, 2, 5, 7, kSpan}));
  // What an entry covers in part goes as a whole.
  EXPECT_EQ(placed(table, with_span, 13), (std::vector<int64_t>{0, 2, 5, 7, 10, 13, 15, 17}));
  EXPECT_EQ(without_partly_covered(table, with_span, 13), kTeacher);
  EXPECT_EQ(without_partly_covered(table, with_span, 1), with_span);
  EXPECT_EQ(without_partly_covered(table, kTeacher, kSpan), kTeacher);
}

TEST(ContextSearch, FindsTheShortestExchange) {
  const ScoreTable table = example();
  const auto from = subblocks_of(table, kTeacher);
  ASSERT_EQ(from.size(), 8u);
  const Exchange span = exchange_between(from, subblocks_of(table, std::vector<int64_t>{0, 2, 5, 7, kSpan}));
  EXPECT_EQ(span.first, 4u);
  EXPECT_EQ(span.last, 8u);
  EXPECT_THAT(span.instead, ElementsAre(RowSubblock{kSpan, Subblock::attention}, RowSubblock{kSpan, Subblock::ffn}));
  const Exchange ffn = exchange_between(from, subblocks_of(table, std::vector<int64_t>{0, 2, 5, 8, 10, 12, 15, 17}));
  EXPECT_EQ(ffn.first, 3u);
  EXPECT_EQ(ffn.last, 4u);
  const Exchange none = exchange_between(from, from);
  EXPECT_EQ(none.first, none.last);
  EXPECT_TRUE(none.instead.empty());
}

/// A loss that is no sum: parts weigh more beside each other.
double loss_of(std::span<const int64_t> rows) {
  double sum = 0, before = 0;
  for (const int64_t r : rows) {
    const double part = r == kPair   ? 0.3
                        : r == kSpan ? 0.5
                        : r % 5 == 1 ? 0.4
                        : r % 5 == 3 ? 0.1
                        : r % 5 == 4 ? 0.35
                                     : 0;
    const double own = part * (1 + 0.2 * random_uniform(5, 1, uint64_t(r)));
    sum += own + 3 * own * before;
    before = own;
  }
  return sum;
}

std::vector<double> measure(std::span<const int64_t>, std::span<const std::vector<int64_t>> others) {
  std::vector<double> losses;
  for (const std::vector<int64_t>& rows : others) losses.push_back(loss_of(rows));
  return losses;
}

TEST(ContextSearch, ChangesAreThoseOfTheStudent) {
  const ScoreTable table = example();
  const std::vector<bool> all(table.rows.size(), true);
  const std::vector<int64_t> student{0, 3, kPair, kSpan};
  const std::vector<double> changes = changes_around(table, student, all, measure);
  const double own = loss_of(student);
  for (const int64_t r : student) EXPECT_EQ(changes[size_t(r)], 0) << r;
  EXPECT_DOUBLE_EQ(changes[1], loss_of(std::vector<int64_t>{1, 3, kPair, kSpan}) - own);
  // A part of the pair: compared with the student without the pair, of whose loss it bears half.
  const double no_pair = loss_of(std::vector<int64_t>{0, 3, 5, 7, kSpan});
  EXPECT_DOUBLE_EQ(changes[8], loss_of(std::vector<int64_t>{0, 3, 5, 8, kSpan}) - no_pair + (no_pair - own) / 2);
  // The teacher's own parts in place of the span's bear a quarter each, so that all of them make the whole.
  const double no_span = loss_of(std::vector<int64_t>{0, 3, kPair, 10, 12, 15, 17});
  double sum = 0;
  for (const size_t r : {10, 12, 15, 17}) sum += changes[r];
  EXPECT_NEAR(sum, no_span - own, 1e-12);
  std::vector<bool> some = all;
  some[8] = false;
  EXPECT_TRUE(std::isnan(changes_around(table, student, some, measure)[8]));
}

// Oracle: all students, one by one.
TEST(ContextSearch, ComesNearTheBestStudentThereIs) {
  const ScoreTable table = example();
  double gap_before = 0, gap_after = 0;  // to the best there is
  for (const double bytes : {64.0, 56.0, 48.0, 40.0, 30.0}) {
    ScoreTable scored = table;  // by scores taken in the teacher
    for (size_t r = 0; r < scored.rows.size(); ++r)
      scored.rows[r].values[0] = loss_of(placed(table, kTeacher, int64_t(r))) - loss_of(kTeacher);
    const Problem problem = make_problem(scored, "kl_divergence", {{{Quantity::memory, "chat", bytes}}}).problem;
    const SolveResult additive = solve(problem);
    ASSERT_EQ(additive.status, SolveStatus::optimal);
    const std::vector<int64_t> first = rows_of(problem, additive.solutions[0]);
    std::vector<ContextRound> heard;
    const ContextResult found = search_in_context(scored, problem, {first}, {.rounds = 20}, measure,
                                                  [&](const ContextRound& round) { heard.push_back(round); });
    EXPECT_EQ(found.before, std::vector<double>{loss_of(first)});
    EXPECT_EQ(found.after, loss_of(found.rows));
    EXPECT_LE(found.after, found.before[0]);
    EXPECT_EQ(heard.size(), found.rounds.size());
    const Solution solution = evaluate(problem, entries_of(problem, found.rows));
    EXPECT_TRUE(keeps_limits(problem, solution));
    // No exchange of one entry for what it displaces is better and keeps the limit.
    for (const Entry& entry : problem.entries) {
      const std::vector<int64_t> rows = placed(table, found.rows, entry.row);
      if (!keeps_limits(problem, evaluate(problem, entries_of(problem, rows)))) continue;
      EXPECT_GE(loss_of(rows), found.after - 1e-12) << bytes << " row " << entry.row;
    }
    double best = INFINITY;
    const std::function<void(std::vector<int64_t>, int32_t)> try_all = [&](std::vector<int64_t> rows, int32_t slot) {
      if (slot == 8) {
        if (keeps_limits(problem, evaluate(problem, entries_of(problem, rows)))) best = std::min(best, loss_of(rows));
        return;
      }
      for (const Entry& e : problem.entries)
        if (e.slots[0] == slot) {
          rows.push_back(e.row);
          try_all(rows, e.slots.back() + 1);
          rows.pop_back();
        }
    };
    try_all({}, 0);
    gap_before += found.before[0] - best, gap_after += found.after - best;
  }
  EXPECT_GT(gap_before, 0.01) << "sums that are right test nothing";
  EXPECT_LT(gap_after, 0.3 * gap_before);
}

TEST(ContextSearch, BeginsFromTheBestThatIsMeasured) {
  const ScoreTable table = example();
  ScoreTable scored = table;
  for (TableRow& row : scored.rows) row.values[0] = row.teacher ? 0 : 1;
  const Problem problem = make_problem(scored, "kl_divergence", {{{Quantity::memory, "chat", 1000}}}).problem;
  const std::vector<std::vector<int64_t>> students{{0, 3, kPair, kSpan}, {0, 3, 5, 7, kSpan}, {1, 3, kPair, kSpan}};
  const ContextResult found = search_in_context(scored, problem, students, {.rounds = 0}, measure, [](const auto&) {});
  EXPECT_EQ(found.rows, students[1]);
  EXPECT_EQ(found.after, loss_of(students[1]));
  EXPECT_EQ(found.before[2], loss_of(students[2]));
}

TEST(ContextSearch, NoRoundsChangeNothing) {
  const ScoreTable table = example();
  ScoreTable scored = table;
  for (TableRow& row : scored.rows) row.values[0] = row.teacher ? 0 : 1;
  const Problem problem = make_problem(scored, "kl_divergence", {{{Quantity::memory, "chat", 1000}}}).problem;
  const ContextResult found =
      search_in_context(scored, problem, {{0, 3, kPair, kSpan}}, {.rounds = 0}, measure, [](const auto&) {});
  EXPECT_EQ(found.rows, (std::vector<int64_t>{0, 3, kPair, kSpan}));
  EXPECT_EQ(found.before[0], found.after);
  EXPECT_TRUE(std::isnan(found.predicted));
}

}  // namespace
}  // namespace tangram
