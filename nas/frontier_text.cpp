#include "nas/frontier_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nas/limit_text.h"

namespace tangram {
namespace {

// The batch sizes that a point takes, by their scenarios.
std::vector<std::string> scenarios_of(const ScoreTable& table, const TableFrontier& traced,
                                      const FrontierPoint& point) {
  return scenario_names(table, traced.choices[point.problem]);
}

}  // namespace

Table frontier_table(const ScoreTable& table, const TableFrontier& traced, const std::string& metric) {
  const TableMetric& m = table.metrics[metric_index(table, metric)];
  const bool has_choice = std::any_of(traced.choices.begin(), traced.choices.end(),
                                      [&](const auto& scenarios) { return scenarios != traced.choices[0]; });
  Table text{.header = {"limit on " + traced.name_of_limit(traced.limit), metric}, .rows = {}};
  for (size_t k = 0; k < traced.problems[0].limits.size(); ++k) text.header.push_back(traced.name_of_limit(k));
  if (has_choice) text.header.push_back("batch");
  text.header.push_back("proven");
  if (traced.has_supported) text.header.push_back("supported");
  for (const FrontierPoint& point : traced.frontier.points) {
    const std::vector<LinearLimit>& limits = traced.problems[point.problem].limits;
    const LinearLimit& moved = limits[traced.limit];
    std::vector<std::string> cells{figure_text(moved.units, shown_on_frontier(moved, point.maximum)),
                                   fmt::format("{:.6g}", predicted(m, point.solution))};
    for (size_t k = 0; k < limits.size(); ++k)
      cells.push_back(figure_text(limits[k].units, shown(limits[k], point.solution.totals[k])));
    if (has_choice) cells.push_back(fmt::format("{}", fmt::join(scenarios_of(table, traced, point), " ")));
    cells.push_back(is_proven(point.solution) ? "yes" : "no");
    if (traced.has_supported) cells.push_back(point.is_supported ? "yes" : "");
    text.rows.push_back(cells);
  }
  return text;
}

std::string frontier_json(const ScoreTable& table, const TableFrontier& traced, const std::string& metric) {
  const LinearLimit& moved = traced.problems[0].limits[traced.limit];
  const Frontier& frontier = traced.frontier;
  nlohmann::ordered_json json = {{"metric", metric},
                                 {"limit", traced.name_of_limit(traced.limit)},
                                 {"units", moved.units},
                                 {"smallest", shown_on_frontier(moved, frontier.smallest)},
                                 {"largest", shown_on_frontier(moved, frontier.largest)},
                                 {"proven", frontier.is_proven},
                                 {"points", nlohmann::ordered_json::array()}};
  for (const FrontierPoint& point : frontier.points) {
    const ChosenArchitecture student = student_of(table, traced.problems[point.problem], point.solution, metric);
    nlohmann::ordered_json one = {{"limit", shown_on_frontier(moved, point.maximum)},
                                  {"proven", is_proven(point.solution)},
                                  {"supported", nullptr},
                                  {"scenarios", scenarios_of(table, traced, point)},
                                  {"predicted", student.predicted},
                                  {"blocks", blocks_json(student)}};
    if (traced.has_supported) one["supported"] = point.is_supported;
    json["points"].push_back(one);
  }
  return json.dump(2) + "\n";
}

std::optional<SearchResult> why_empty(const ScoreTable& table, const TableFrontier& traced, SearchRequest request,
                                      const Constraint& moved, const std::string& what) {
  if (!traced.frontier.points.empty()) return std::nullopt;
  request.constraints.push_back(moved);
  SearchResult found = search(table, request);
  check_answered(found, what);
  if (found.solved.status == SolveStatus::infeasible) return found;
  throw Error(fmt::format("{}: the solver ran out of time before it found one", what));
}

}  // namespace tangram
