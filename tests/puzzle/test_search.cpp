#include "puzzle/search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "puzzle/outliers.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Two layers with attention gqa_2 or no_op and FFNs of 64 or 32, a block of both layers, and two batch sizes. Memory
/// is the weights alone at 1 sequence; the cache of gqa_2 takes 10 a layer at 4.
ScoreTable two_layers() {
  ScoreTable table{.layer_count = 2};
  add_metric(table, {"kl_divergence", "nats", false, 0});
  add_metric(table, {"top_1", "1", true, 1});
  add_scenario(table, {"chat@1", 4, 4, 1, Precision::bf16});
  add_scenario(table, {"chat@4", 4, 4, 4, Precision::bf16});
  const auto row = [&](int64_t layer, int64_t layers, const char* attention, const char* ffn, double kl, double bytes,
                       double cache, double seconds) {
    TableRow& r = row_of(table, layer, layers, attention, ffn);
    r.values = {kl, 1 - kl / 10};
    r.standard_errors = {0, 0};
    r.parameters = bytes;
    r.costs[0] = {bytes, cache / 4, 0, seconds};
    r.costs[1] = {bytes, cache, 0, 2 * seconds};  // four sequences in twice the time
    r.teacher = kl == 0;
  };
  for (int64_t layer = 0; layer < 2; ++layer) {
    row(layer, 1, "gqa_2", "", 0, 20, 40, 1);
    row(layer, 1, "no_op", "", 0.5 + double(layer), 0, 0, 0);
    row(layer, 1, "", "ffn_64", 0, 60, 0, 3);
    row(layer, 1, "", "ffn_32", 0.3, 30, 0, 1.5);
  }
  row(0, 2, "gqa_2", "ffn_64", 1.125, 80, 40, 4);
  table.outside_parameters = 0;
  table.outside = {{0, 0, 0, 0}, {0, 0, 0, 0}};
  table.workspace_bytes = {0, 0};
  return table;
}

std::vector<std::string> names_of(const ScoreTable& table, const SearchResult& found, size_t solution = 0) {
  std::vector<std::string> names;
  for (const int64_t r : rows_of(found.table.problem, found.solved.solutions.at(solution))) {
    const TableRow& row = table.rows[size_t(r)];
    names.push_back(fmt::format("{}{}{}", row.attention, row.attention.empty() || row.ffn.empty() ? "" : "+", row.ffn));
  }
  return names;
}

TEST(Search, FindsTheBestUnderALimit) {
  const ScoreTable table = two_layers();
  const SearchResult found = search(
      table, {.metric = "kl_divergence", .constraints = {{Quantity::memory, "chat@4", 140}}});  // the teacher has 240
  EXPECT_EQ(found.solved.status, SolveStatus::optimal);
  // The first attention and both wide FFNs are 120 bytes for 1.1; one block for both layers saves as much for 1.125.
  EXPECT_THAT(names_of(table, found), ElementsAre("no_op", "ffn_32", "gqa_2", "ffn_32"));
  EXPECT_EQ(found.scenarios, std::vector<size_t>{1});
}

TEST(Search, OneBlockMayStandForSeveralLayers) {
  const ScoreTable table = two_layers();
  const SearchResult found =
      search(table, {.metric = "kl_divergence",
                     .constraints = {{Quantity::memory, "chat@4", 125}},
                     .rules = {{.first_layer = 0, .last_layer = 0, .ffn = "ffn_32", .forbidden = true}}});
  EXPECT_THAT(names_of(table, found), ElementsAre("gqa_2+ffn_64"));
}

TEST(Search, ChoosesAmongBatchSizes) {
  const ScoreTable table = two_layers();
  // At 4 sequences the teacher makes 16 tokens in 16 s, at 1 sequence 4 in 8 s: only the larger batch gives 1 a second.
  const SearchResult fast =
      search(table, {.metric = "kl_divergence", .constraints = {{Quantity::throughput, "chat", 1}}});
  EXPECT_EQ(fast.batch_choices, 2u);
  EXPECT_EQ(fast.scenarios, std::vector<size_t>{1});
  EXPECT_THAT(names_of(table, fast), ElementsAre("gqa_2", "ffn_64", "gqa_2", "ffn_64"));
  // 180 bytes are the teacher at 1 sequence, and not at 4.
  const SearchResult small = search(table, {.metric = "kl_divergence", .constraints = {{Quantity::memory, "", 180}}});
  EXPECT_EQ(small.scenarios, std::vector<size_t>{0});
  EXPECT_EQ(small.solved.solutions.at(0).objective, 0);
  const SearchResult both =
      search(table, {.metric = "kl_divergence",
                     .constraints = {{Quantity::memory, "chat", 180}, {Quantity::throughput, "chat", 1}},
                     .solver = {.count = 3}});
  EXPECT_EQ(both.scenarios, std::vector<size_t>{1});
  EXPECT_EQ(both.solved.solutions.size(), 3u);
}

TEST(Search, RulesRequireAndForbid) {
  const ScoreTable table = two_layers();
  const std::vector<Constraint> free = {{Quantity::memory, "chat@4", 1000}};
  const auto found = [&](std::vector<ChoiceRule> rules) {
    return names_of(table, search(table, {.metric = "kl_divergence", .constraints = free, .rules = std::move(rules)}));
  };
  EXPECT_THAT(found({{.first_layer = 1, .last_layer = 1, .attention = "no_op"}}),
              ElementsAre("gqa_2", "ffn_64", "no_op", "ffn_64"));
  EXPECT_THAT(found({{.first_layer = 0, .last_layer = 1, .ffn = "ffn_64", .forbidden = true}}),
              ElementsAre("gqa_2", "ffn_32", "gqa_2", "ffn_32"));
  const auto refused = [&](ChoiceRule rule) { return message_of([&] { found({rule}); }); };
  EXPECT_THAT(refused({.first_layer = 0, .last_layer = 2, .ffn = "ffn_64"}), HasSubstr("the table has layers 0 to 1"));
  EXPECT_THAT(refused({.first_layer = 0, .last_layer = 1, .ffn = "ffn_63"}),
              HasSubstr("no ffn in layers 0 to 1 'ffn_63'; did you mean 'ffn_64'?"));
}

TEST(Search, LimitsHowManyVariantsDiffer) {
  const ScoreTable table = two_layers();
  const SearchRequest request{.metric = "kl_divergence", .constraints = {{Quantity::memory, "chat@4", 180}}};
  EXPECT_THAT(names_of(table, search(table, request)), ElementsAre("no_op", "ffn_64", "gqa_2", "ffn_64"));
  SearchRequest two = request;
  two.most_variants = 2;
  EXPECT_THAT(names_of(table, search(table, two)), ElementsAre("gqa_2", "ffn_32", "gqa_2", "ffn_32"));
}

TEST(Search, AMetricMayBeOneOfWhichMoreIsBetter) {
  const ScoreTable table = two_layers();
  const SearchResult found = search(table, {.metric = "top_1", .constraints = {{Quantity::memory, "chat@4", 140}}});
  EXPECT_THAT(names_of(table, found), ElementsAre("no_op", "ffn_32", "gqa_2", "ffn_32"));
  EXPECT_NEAR(predicted(table.metrics[1], found.solved.solutions[0]), 0.89, 1e-12);
}

TEST(Search, SaysWhatStandsInTheWay) {
  const ScoreTable table = two_layers();
  const SearchResult found = search(table, {.metric = "kl_divergence", .constraints = {{Quantity::memory, "", 59}}});
  EXPECT_EQ(found.solved.status, SolveStatus::infeasible);
  EXPECT_EQ(found.solved.conflicts.at(0).smallest_with_others, 60);  // two narrow FFNs
}

TEST(Search, RulesThatExcludeEachOtherAreNamed) {
  const ScoreTable table = two_layers();
  const auto conflict = [&](std::vector<ChoiceRule> rules, double bytes, int64_t most_variants = 0) {
    const SearchResult found = search(table, {.metric = "kl_divergence",
                                              .constraints = {{Quantity::memory, "chat@4", bytes}},
                                              .rules = std::move(rules),
                                              .most_variants = most_variants});
    EXPECT_EQ(found.solved.status, SolveStatus::infeasible);
    std::vector<std::string> names;
    for (size_t r = 0; r < found.solved.rule_conflicts.size(); ++r)
      if (found.solved.rule_conflicts[r].is_needed) names.push_back(found.table.problem.rules.at(r));
    if (found.solved.conflicts.at(0).is_needed) names.push_back("memory");
    if (found.solved.variants_conflict.is_needed) names.push_back("variants");
    return names;
  };
  const ChoiceRule gqa{.first_layer = 0, .last_layer = 1, .attention = "gqa_2"},
      no_op{.first_layer = 0, .last_layer = 0, .attention = "no_op"},
      narrow{.first_layer = 1, .last_layer = 1, .ffn = "ffn_32"};
  ChoiceRule no_gqa = gqa, no_no_op = no_op, both = no_op;
  no_gqa.forbidden = no_no_op.forbidden = true, both.ffn = "ffn_64";
  EXPECT_THAT(conflict({gqa, narrow, no_op}, 1000),
              ElementsAre("require 0-1:attention=gqa_2", "require 0:attention=no_op"));
  EXPECT_THAT(conflict({no_op, no_op, no_no_op}, 1000),
              ElementsAre("require 0:attention=no_op", "forbid 0:attention=no_op"));
  // Every attention of layer 0: that of the block of both layers is forbidden, too.
  EXPECT_THAT(conflict({no_gqa, no_no_op}, 1000),
              ElementsAre("forbid 0-1:attention=gqa_2", "forbid 0:attention=no_op"));
  // Two narrow FFNs and the attention that is required take 60 + 120 bytes.
  EXPECT_THAT(conflict({narrow, gqa}, 170), ElementsAre("require 0-1:attention=gqa_2", "memory"));
  EXPECT_THAT(conflict({both, {.first_layer = 1, .last_layer = 1, .attention = "gqa_2"}}, 1000, 2),
              ElementsAre("require 0:attention=no_op, ffn=ffn_64", "require 1:attention=gqa_2", "variants"));
  EXPECT_THAT(conflict({gqa, narrow, no_op}, 10),
              ElementsAre("require 0-1:attention=gqa_2", "require 0:attention=no_op"));
}

TEST(Search, ARuleThatIsGivenTwiceIsOne) {
  const ChoiceRule no_op{.first_layer = 0, .last_layer = 0, .attention = "no_op"};
  ChoiceRule none = no_op;
  none.forbidden = true;
  const SearchResult found = search(two_layers(), {.metric = "kl_divergence", .rules = {no_op, none, no_op}});
  ASSERT_EQ(found.solved.rule_conflicts.size(), 2u);
  for (const RuleConflict& rule : found.solved.rule_conflicts) EXPECT_TRUE(rule.is_enough && rule.is_needed);
}

TEST(Search, OfSeveralLimitsOnTheSameTheTightestCounts) {
  const ScoreTable table = two_layers();
  const SearchResult found = search(table, {.metric = "kl_divergence",
                                            .constraints = {{Quantity::memory, "chat@4", 200},
                                                            {Quantity::memory, "", 140},
                                                            {Quantity::throughput, "chat", 0.1},
                                                            {Quantity::throughput, "chat", 0.2}}});
  ASSERT_EQ(found.table.problem.limits.size(), 2u);
  EXPECT_EQ(found.table.problem.limits[0].maximum, 140);
  EXPECT_EQ(shown(found.table.problem.limits[1], found.table.problem.limits[1].maximum), 0.2);
}

// One sequence: two narrow FFNs are 60 bytes and 3 s for 4 tokens; four sequences: the same bytes, 6 s for 16 tokens.
TEST(Search, RelaxationsAreTheLeastOverAllBatchSizes) {
  const ScoreTable table = two_layers();
  const SearchResult found = search(
      table,
      {.metric = "kl_divergence", .constraints = {{Quantity::throughput, "chat", 3}, {Quantity::latency, "chat", 2}}});
  ASSERT_EQ(found.solved.status, SolveStatus::infeasible);
  const std::vector<LinearLimit>& limits = found.table.problem.limits;
  // Without the limit on time, 16 tokens in 6 s; without that on the rate, 3 s. With all else kept, neither will do.
  EXPECT_DOUBLE_EQ(shown(limits[0], found.solved.conflicts[0].smallest), 16.0 / 6);
  EXPECT_EQ(found.solved.conflicts[1].smallest, 3);
  const SearchResult slower =
      search(table, {.metric = "kl_divergence",
                     .constraints = {{Quantity::throughput, "chat", 2}, {Quantity::latency, "chat", 3.5}}});
  ASSERT_EQ(slower.solved.status, SolveStatus::infeasible);
  EXPECT_DOUBLE_EQ(shown(slower.table.problem.limits[0], slower.solved.conflicts[0].smallest_with_others), 4.0 / 3);
  EXPECT_EQ(slower.relaxed_in.at(0), std::vector<size_t>{0});
  EXPECT_DOUBLE_EQ(slower.solved.conflicts[1].smallest_with_others, 6);
  EXPECT_EQ(slower.relaxed_in.at(1), std::vector<size_t>{1});
}

TEST(Outliers, AreFarBeyondTheSameVariantElsewhere) {
  ScoreTable table{.layer_count = 8};
  add_metric(table, {"kl_divergence", "nats", false, 0});
  for (int64_t layer = 0; layer < 8; ++layer) {
    row_of(table, layer, 1, "no_op", "").values[0] = layer == 5 ? 30 : 1 + 0.1 * double(layer);
    row_of(table, layer, 1, "", "ffn_8").values[0] = layer == 2 ? kMissing : 30;  // all alike
  }
  const std::vector<double> losses = losses_of(table, 0);
  const std::vector<bool> outliers = outliers_of(table, losses);
  for (size_t r = 0; r < table.rows.size(); ++r)
    EXPECT_EQ(outliers[r], table.rows[r].first_layer == 5 && table.rows[r].ffn.empty()) << r;
}

}  // namespace
}  // namespace tangram
