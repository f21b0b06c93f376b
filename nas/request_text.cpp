#include "nas/request_text.h"

#include <algorithm>
#include <set>

#include "nas/conflict_text.h"
#include "nas/limit_text.h"
#include "nas/run_files.h"

namespace tangram {
namespace {

// Each limit beside the student's own figure.
Table limits_table(const Problem& problem, const ScoreTable& table, const std::vector<size_t>& scenarios,
                   const ChosenArchitecture& student) {
  Table text{.header = {"figure", "asked for", "found", "of the teacher's"}, .rows = {}};
  const std::vector<int64_t> teacher = teacher_rows(table);
  const auto add = [&](const std::string& name, const std::string& key, Quantity q, size_t s) {
    const auto found = student.predicted.find(key);
    for (const LinearLimit& limit : problem.limits)
      if (limit.name == name && found != student.predicted.end())
        text.rows.push_back({name, asked_text(limit), figure_text(limit.units, found->second),
                             fmt::format("{:.1f} %", 100 * found->second / figure(table, teacher, q, s))});
  };
  add("parameters", "parameters", Quantity::parameters, 0);
  for (const size_t s : scenarios)
    for (const Quantity q : kQuantities)
      add(fmt::format("{} ({})", name_of(q), table.scenarios[s].name),
          fmt::format("{}.{}", table.scenarios[s].name, name_of(q)), q, s);
  return text;
}

size_t variant_count(const ChosenArchitecture& student) {
  std::set<std::pair<Subblock, std::string>> variants;
  for (const ChosenBlock& block : student.blocks)
    variants.insert({Subblock::attention, block.attention}), variants.insert({Subblock::ffn, block.ffn});
  return variants.size();
}

// Of each scenario with several batch sizes the one that was chosen.
std::string batch_text(const SearchConfig& config, const ChosenArchitecture& student) {
  std::string text;
  for (const ScenarioConfig& scenario : config.scenarios) {
    if (scenario.concurrency.size() < 2) continue;
    std::vector<std::string> all, chosen;
    for (const int64_t n : scenario.concurrency) {
      all.push_back(fmt::format("{}", n));
      if (std::count(student.scenarios.begin(), student.scenarios.end(), fmt::format("{}@{}", scenario.name, n)) > 0)
        chosen.push_back(all.back());
    }
    if (!chosen.empty())
      text += fmt::format("  batch size of {}: {}, of {}\n", scenario.name, fmt::join(chosen, " and "),
                          fmt::join(all, ", "));
  }
  return text;
}

}  // namespace

std::string request_text(const SearchConfig& config, const TargetConfig& target, const ChosenArchitecture& student,
                         const ScoreTable& table) {
  std::vector<size_t> scenarios;
  for (const std::string& name : student.scenarios) scenarios.push_back(scenario_index(table, name));
  const Problem problem = make_problem(table, student.objective, constraints_of(target), scenarios).problem;
  std::string text = format_table(limits_table(problem, table, scenarios, student));
  text += fmt::format("  {} {:.6g} as a sum of scores, {}\n", student.objective,
                      student.predicted.at(student.objective), student.proven ? "proven best" : "not proven best");
  for (const ChoiceRule& rule : rules_of(target, table.layer_count)) text += fmt::format("  {}\n", text_of(rule));
  if (target.most_variants > 0)
    text += fmt::format("  at most {} different variants: it has {}\n", target.most_variants, variant_count(student));
  if (!target.servable.empty()) text += fmt::format("  {}\n", servable_text(servers_called(target.servable)));
  text += batch_text(config, student);
  if (config.solutions.count > 1)
    text += fmt::format("  {} students, any two different in {:.4g} % of the layers\n", config.solutions.count,
                        100 * config.solutions.min_difference);
  if (!config.solutions.frontier.empty())
    text += fmt::format("  frontier over {} of {} points: {}\n", config.solutions.frontier, config.solutions.points,
                        frontier_path("", target.name).string());
  return text;
}

}  // namespace tangram
