#include "nas/found_students.h"

#include <cmath>

namespace tangram {
namespace {

// Rows in the order of their layers, attention before ffn.
std::vector<ChosenBlock> blocks_of_rows(const ScoreTable& table, std::span<const int64_t> rows) {
  std::vector<ChosenBlock> blocks;
  for (const int64_t r : rows) {
    const TableRow& row = table.rows[static_cast<size_t>(r)];
    if (row.attention.empty()) {
      blocks.back().ffn = row.ffn;
      blocks.back().teacher = blocks.back().teacher && row.teacher;
      continue;
    }
    blocks.push_back({.attention = row.attention, .ffn = row.ffn, .layers = row.layer_count, .teacher = row.teacher});
    blocks.back().together = !row.ffn.empty() && !row.teacher;
  }
  return blocks;
}

}  // namespace

ChosenArchitecture student_of(const ScoreTable& table, const Problem& problem, const Solution& solution,
                              const std::string& metric) {
  const std::vector<int64_t> rows = rows_of(problem, solution);
  ChosenArchitecture student{.name = {},
                             .target = {},
                             .method = {},
                             .objective = metric,
                             .proven = is_proven(solution),
                             .predicted = {},
                             .blocks = blocks_of_rows(table, rows)};
  student.predicted[metric] = predicted(table.metrics[metric_index(table, metric)], solution);
  const auto add = [&](const std::string& name, double value) {
    if (std::isfinite(value)) student.predicted[name] = value;
  };
  add("parameters", figure(table, rows, Quantity::parameters, 0));
  for (size_t s = 0; s < table.scenarios.size(); ++s)
    for (const Quantity q : kQuantities)
      if (q != Quantity::parameters)
        add(fmt::format("{}.{}", table.scenarios[s].name, name_of(q)), figure(table, rows, q, s));
  return student;
}

ChosenArchitecture student_in_context(const ScoreTable& table, const Problem& problem, const ContextResult& found,
                                      const std::string& metric) {
  ChosenArchitecture student = student_of(table, problem, evaluate(problem, entries_of(problem, found.rows)), metric);
  student.proven = false;
  const bool more_is_better = table.metrics[metric_index(table, metric)].higher_is_better;
  if (std::isfinite(found.predicted)) student.predicted[metric] = more_is_better ? -found.predicted : found.predicted;
  return student;
}

std::vector<std::string> scenario_names(const ScoreTable& table, const std::vector<size_t>& scenarios) {
  std::vector<std::string> names;
  for (const size_t s : scenarios) names.push_back(table.scenarios[s].name);
  return names;
}

std::vector<std::string> server_names(std::span<const Server* const> servers) {
  std::vector<std::string> names;
  for (const Server* server : servers) names.emplace_back(server->name);
  return names;
}

std::string kv_heads_text(const SearchResult& found) {
  if (found.kv_heads == 0) return "";
  return fmt::format("{} KV head{} in all full attention{}", found.kv_heads, found.kv_heads == 1 ? "" : "s",
                     found.kv_heads_choices > 1 ? fmt::format(", the best of {} numbers", found.kv_heads_choices) : "");
}

Table block_table(const ChosenArchitecture& student) {
  Table table{.header = {"layers", "attention", "ffn", "scored"}, .rows = {}};
  const auto same = [](const ChosenBlock& a, const ChosenBlock& b) {
    return std::tie(a.attention, a.ffn, a.together, a.teacher) == std::tie(b.attention, b.ffn, b.together, b.teacher) &&
           a.layers == 1 && b.layers == 1;
  };
  int64_t first = 0;
  for (size_t i = 0; i < student.blocks.size();) {
    const ChosenBlock& block = student.blocks[i];
    int64_t next = first;
    do {
      next += student.blocks[i++].layers;
    } while (i < student.blocks.size() && same(student.blocks[i], block));
    table.rows.push_back({next - first == 1 ? fmt::format("{}", first) : fmt::format("{}-{}", first, next - 1),
                          block.attention, block.ffn,
                          block.layers > 1 ? "as one block"
                          : block.together ? "together"
                          : block.teacher  ? "the teacher's own"
                                           : "as the sum of its parts"});
    first = next;
  }
  return table;
}

nlohmann::ordered_json blocks_json(const ChosenArchitecture& student) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ChosenBlock& b : student.blocks)
    json.push_back({{"attention", b.attention}, {"ffn", b.ffn}, {"layers", b.layers}, {"scored_together", b.together}});
  return json;
}

void check_answered(const SearchResult& found, const std::string& what) {
  if (found.solved.status != SolveStatus::infeasible && found.solved.solutions.empty())
    throw Error(fmt::format("{}: the solver ran out of time before it found one", what));
}

}  // namespace tangram
