// Searches for what servers run: against every student of small tables, judged by the check of its whole architecture.

#include <gmock/gmock.h>

#include <random>

#include "puzzle/table_frontier.h"
#include "tests/blocks/folder.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig teacher_config(int64_t layers) {
  ModelConfig config = small_config();
  config.num_key_value_heads = config.num_attention_heads, config.intermediate_size = 512;
  config.num_hidden_layers = layers;
  return config;
}

constexpr const char* kAttention[] = {"gqa_4", "gqa_2", "gqa_1", "linear", "no_op", "window_16"};
constexpr const char* kFfn[] = {"ffn_512", "ffn_256", "ffn_100", "linear", "no_op"};

/// Random scores and bytes for some variants of every layer, some pairs, and a span of two layers from each but the
/// last. The teacher's own are always there, and nothing is free but them.
ScoreTable random_table(int64_t layers, uint32_t seed) {
  std::mt19937 random(seed);
  const auto uniform = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };
  const auto any = [&](const auto& names) { return names[random() % std::size(names)]; };
  ScoreTable table{.layer_count = layers};
  add_metric(table, {"kl_divergence", "nats", false, 0});
  add_scenario(table, {"chat", 4, 4, 1, Precision::bf16});
  const auto row = [&](int64_t layer, int64_t count, const char* attention, const char* ffn, bool teacher) {
    TableRow& r = row_of(table, layer, count, attention, ffn);
    if (r.teacher) return;
    r.teacher = teacher;
    r.values = {teacher ? 0 : 0.1 + uniform()};
    r.standard_errors = {0};
    const double bytes = (teacher ? 100 : 10 + 80 * uniform()) * (*attention && *ffn ? 1.5 : 1);
    r.parameters = bytes;
    r.costs[0] = {bytes, 0, 0, bytes};
  };
  for (int64_t layer = 0; layer < layers; ++layer) {
    row(layer, 1, kAttention[0], "", true), row(layer, 1, "", kFfn[0], true);
    for (const char* name : kAttention)
      if (uniform() < 0.7) row(layer, 1, name, "", false);
    for (const char* name : kFfn)
      if (uniform() < 0.7) row(layer, 1, "", name, false);
    for (int pair = 0; pair < 2; ++pair) row(layer, 1, any(kAttention), any(kFfn), false);
    if (layer + 1 < layers) row(layer, 2, any(kAttention), any(kFfn), false);
  }
  table.outside_parameters = 0;
  table.outside = {{0, 0, 0, 0}};
  table.workspace_bytes = {0};
  return table;
}

/// The blocks of rows that fill every slot, in any order.
Architecture architecture_of(const ScoreTable& table, const std::vector<int64_t>& rows, const ModelConfig& config) {
  std::map<int64_t, BlockChoice> blocks;
  for (const int64_t r : rows) {
    const TableRow& row = table.rows[size_t(r)];
    BlockChoice& block = blocks[row.first_layer];
    if (!row.attention.empty()) block.attention = parse_choice(Subblock::attention, row.attention, config);
    if (!row.ffn.empty()) block.ffn = parse_choice(Subblock::ffn, row.ffn, config);
  }
  Architecture all;
  for (const auto& [layer, block] : blocks) all.push_back(block);
  return all;
}

bool all_run(const std::vector<const Server*>& servers, const Architecture& blocks, ModelConfig config) {
  config.num_hidden_layers = std::ssize(blocks);
  return std::all_of(servers.begin(), servers.end(),
                     [&](const Server* s) { return check_server(*s, blocks, config).runs(); });
}

/// Calls `found` with every choice of rows that fills every slot once.
void every_student(const ScoreTable& table, const std::function<void(const std::vector<int64_t>&)>& found) {
  std::vector<char> filled(size_t(2 * table.layer_count));
  std::vector<int64_t> rows;
  const std::function<void()> fill = [&] {
    const auto gap = std::find(filled.begin(), filled.end(), 0);
    if (gap == filled.end()) return found(rows);
    for (size_t r = 0; r < table.rows.size(); ++r) {
      const std::vector<int32_t> slots = slots_of(table.rows[r]);
      if (slots[0] != gap - filled.begin() ||
          std::any_of(slots.begin(), slots.end(), [&](int32_t s) { return filled[size_t(s)]; }))
        continue;
      for (const int32_t s : slots) filled[size_t(s)] = 1;
      rows.push_back(int64_t(r));
      fill();
      rows.pop_back();
      for (const int32_t s : slots) filled[size_t(s)] = 0;
    }
  };
  fill();
}

struct Best {
  double objective = std::numeric_limits<double>::infinity(), fewest_bytes = objective;
};

/// By counting: of all students that the servers run, the smallest sum of scores within the limit, and fewest bytes.
Best best_by_counting(const ScoreTable& table, const std::vector<const Server*>& servers, double bytes,
                      const ModelConfig& config) {
  Best best;
  every_student(table, [&](const std::vector<int64_t>& rows) {
    double objective = 0, total = 0;
    for (const int64_t r : rows) {
      objective += table.rows[size_t(r)].values[0];
      total += table.rows[size_t(r)].parameters;
    }
    if (objective >= best.objective && total >= best.fewest_bytes) return;
    if (!all_run(servers, architecture_of(table, rows, config), config)) return;
    best.fewest_bytes = std::min(best.fewest_bytes, total);
    if (total <= bytes) best.objective = std::min(best.objective, objective);
  });
  return best;
}

TEST(Servable, FindsTheBestOfAllStudentsThatServersRun) {
  std::mt19937 random(5);
  int feasible = 0, infeasible = 0;
  for (uint32_t seed = 0; seed < 40; ++seed) {
    const int64_t layers = 2 + seed % 2;
    const ModelConfig config = teacher_config(layers);
    const ScoreTable table = random_table(layers, seed);
    std::vector<const Server*> servers;
    for (const Server& server : all_servers())
      if (random() % 2 || servers.empty()) servers.push_back(&server);
    const double bytes = double(layers) * (45 + double(random() % 120));
    const Best best = best_by_counting(table, servers, bytes, config);
    const SearchResult found = search(
        table, {.metric = "kl_divergence", .constraints = {{Quantity::memory, "chat", bytes}}, .servable = servers});
    if (std::isinf(best.objective)) {
      ++infeasible;
      ASSERT_EQ(found.solved.status, SolveStatus::infeasible) << seed;
      EXPECT_NEAR(found.solved.conflicts.at(0).smallest_with_others, best.fewest_bytes, 1e-9) << seed;
      EXPECT_EQ(found.solved.rule_conflicts.at(0).is_enough,
                std::isfinite(best_by_counting(table, {}, bytes, config).objective))
          << seed;
      continue;
    }
    ++feasible;
    ASSERT_EQ(found.solved.status, SolveStatus::optimal) << seed;
    EXPECT_NEAR(found.solved.solutions[0].objective, best.objective, 1e-9) << seed;
  }
  EXPECT_GT(feasible, 15);
  EXPECT_GT(infeasible, 5);
}

// Every student of a search, further ones and those of a frontier too, passes the check of each server.
TEST(Servable, WhatIsFoundRuns) {
  const int64_t layers = 5;
  const ModelConfig config = teacher_config(layers);
  for (uint32_t seed = 100; seed < 108; ++seed) {
    const ScoreTable table = random_table(layers, seed);
    for (const Server& server : all_servers()) {
      SearchRequest request{.metric = "kl_divergence",
                            .constraints = {{Quantity::memory, "chat", 550}},
                            .servable = {&server},
                            .solver = {.count = 3}};
      const SearchResult found = search(table, request);
      for (const Solution& s : found.solved.solutions)
        EXPECT_TRUE(all_run(request.servable, architecture_of(table, rows_of(found.table.problem, s), config), config))
            << server.name << " " << seed;
      request.constraints.clear();
      const TableFrontier traced = trace_frontier(table, request, moved_limit(Quantity::memory, ""), {.points = 5});
      ASSERT_FALSE(traced.frontier.points.empty());
      for (const FrontierPoint& p : traced.frontier.points)
        EXPECT_TRUE(all_run(request.servable,
                            architecture_of(table, rows_of(traced.problems[p.problem], p.solution), config), config))
            << server.name << " " << seed;
    }
  }
}

/// One layer as `n` layers: attention of 4, 2 or 1 KV heads, linear or a window, from dear to cheap; one FFN.
ScoreTable layers_alike(int64_t n) {
  ScoreTable table{.layer_count = n};
  add_metric(table, {"kl_divergence", "nats", false, 0});
  add_scenario(table, {"chat", 4, 4, 1, Precision::bf16});
  const auto row = [&](int64_t layer, const char* attention, const char* ffn, double kl, double bytes) {
    TableRow& r = row_of(table, layer, 1, attention, ffn);
    r.values = {kl}, r.standard_errors = {0}, r.parameters = bytes, r.teacher = kl == 0;
    r.costs[0] = {bytes, 0, 0, bytes};
  };
  for (int64_t layer = 0; layer < n; ++layer) {
    const double s = 1 + double(layer);
    row(layer, "gqa_4", "", 0, 80), row(layer, "gqa_2", "", 1 * s, 40), row(layer, "gqa_1", "", 3 * s, 20);
    row(layer, "linear", "", 7 * s, 10), row(layer, "window_16", "", 0.1 * s, 5);
    row(layer, "", "ffn_512", 0, 100);
  }
  table.outside_parameters = 0;
  table.outside = {{0, 0, 0, 0}};
  table.workspace_bytes = {0};
  return table;
}

std::vector<std::string> attention_of(const ScoreTable& table, const SearchResult& found) {
  std::vector<std::string> names;
  for (const int64_t r : rows_of(found.table.problem, found.solved.solutions.at(0)))
    if (const TableRow& row = table.rows[size_t(r)]; !row.attention.empty()) names.push_back(row.attention);
  return names;
}

TEST(Servable, OneNumberOfKvHeadsIsChosenForAllLayers) {
  const ScoreTable table = layers_alike(2);
  const auto found = [&](double bytes, std::vector<std::string> servers) {
    return search(table, {.metric = "kl_divergence",
                          .constraints = {{Quantity::memory, "chat", bytes}},
                          .servable = servers_called(servers)});
  };
  EXPECT_THAT(attention_of(table, found(320, {})), ElementsAre("window_16", "gqa_4"));
  EXPECT_THAT(attention_of(table, found(320, {"llama.cpp"})), ElementsAre("gqa_2", "gqa_4"));
  const SearchResult one = found(320, {"llama.cpp", "sglang"});
  EXPECT_THAT(attention_of(table, one), ElementsAre("gqa_2", "gqa_2"));
  EXPECT_EQ(one.kv_heads, 2);
  EXPECT_EQ(one.kv_heads_choices, 3u);
  EXPECT_EQ(one.batch_choices, 1u);
  EXPECT_THAT(attention_of(table, found(230, {"tensorrt-llm"})), ElementsAre("linear", "gqa_1"));
  EXPECT_EQ(found(230, {"sglang"}).solved.status, SolveStatus::infeasible);  // two of one head take 240
}

TEST(Servable, IsNamedAmongWhatConflicts) {
  const ScoreTable table = layers_alike(2);
  SearchRequest request{.metric = "kl_divergence",
                        .constraints = {{Quantity::memory, "chat", 230}},
                        .rules = {{.first_layer = 0, .last_layer = 0, .attention = "gqa_1"}},
                        .servable = servers_called(std::vector<std::string>{"vllm", "sglang"})};
  const SearchResult found = search(table, request);
  ASSERT_EQ(found.solved.status, SolveStatus::infeasible);
  EXPECT_THAT(found.table.problem.rules, ElementsAre("require 0:attention=gqa_1", "servable vllm, sglang"));
  const RuleConflict& servable = found.solved.rule_conflicts.at(1);
  EXPECT_TRUE(servable.is_needed && servable.is_enough) << "a window in layer 1 keeps the limit";
  EXPECT_FALSE(found.solved.rule_conflicts.at(0).is_enough);
  EXPECT_EQ(found.solved.conflicts.at(0).smallest_with_others, 240);
  request.constraints[0].bound = 205;  // not even windows
  const SearchResult neither = search(table, request);
  EXPECT_FALSE(neither.solved.rule_conflicts.at(1).is_enough);
}

// What breaks a rule and is not servable, either, is still out when one of the two is gone.
TEST(Servable, AndAnotherRuleMayTakeOutTheSame) {
  const SearchResult found = search(
      layers_alike(2), {.metric = "kl_divergence",
                        .constraints = {{Quantity::memory, "chat", 215}},
                        .rules = {{.first_layer = 0, .last_layer = 1, .attention = "window_16", .forbidden = true}},
                        .servable = servers_called(std::vector<std::string>{"sglang"})});
  ASSERT_EQ(found.solved.status, SolveStatus::infeasible);
  EXPECT_FALSE(found.solved.rule_conflicts.at(0).is_needed) << "sglang runs no window anyway";
  EXPECT_TRUE(found.solved.rule_conflicts.at(1).is_needed);
  EXPECT_FALSE(found.solved.rule_conflicts.at(1).is_enough) << "no window in any case, and linear attention takes 220";
}

TEST(Servable, RefusesMoreLayersThanAServerReads) {
  ScoreTable table = layers_alike(2);
  table.layer_count = 513;
  Problem problem;
  const std::vector<const Server*> llama{&server_called("llama.cpp")};
  EXPECT_THAT(message_of([&] { apply_servable(problem, table, llama, 0); }),
              HasSubstr("servable llama.cpp: students may have 513 layers, and it reads at most 512"));
}

}  // namespace
}  // namespace tangram
