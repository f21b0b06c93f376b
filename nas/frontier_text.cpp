#include "nas/frontier_text.h"

#include <nlohmann/json.hpp>

#include "nas/limit_text.h"

namespace tangram {
namespace {

std::string text_of(const LinearLimit& limit, double total) { return figure_text(limit.units, shown(limit, total)); }

}  // namespace

Table frontier_table(const ScoreTable& table, const SearchResult& found, const Frontier& frontier, size_t limit,
                     const std::string& metric) {
  const std::vector<LinearLimit>& limits = found.table.problem.limits;
  const TableMetric& m = table.metrics[metric_index(table, metric)];
  Table text{.header = {"limit on " + limits[limit].name, metric}, .rows = {}};
  for (const LinearLimit& l : limits) text.header.push_back(l.name);
  text.header.insert(text.header.end(), {"proven", "supported"});
  for (const FrontierPoint& point : frontier.points) {
    std::vector<std::string> cells{text_of(limits[limit], point.maximum),
                                   fmt::format("{:.6g}", predicted(m, point.solution))};
    for (size_t k = 0; k < limits.size(); ++k) cells.push_back(text_of(limits[k], point.solution.totals[k]));
    cells.push_back(is_proven(point.solution) ? "yes" : "no");
    cells.push_back(point.is_supported ? "yes" : "");
    text.rows.push_back(cells);
  }
  return text;
}

std::string frontier_json(const ScoreTable& table, const SearchResult& found, const Frontier& frontier, size_t limit,
                          const std::string& metric) {
  const std::vector<LinearLimit>& limits = found.table.problem.limits;
  nlohmann::ordered_json json = {{"metric", metric},
                                 {"limit", limits[limit].name},
                                 {"units", limits[limit].units},
                                 {"smallest", shown(limits[limit], frontier.smallest)},
                                 {"largest", shown(limits[limit], frontier.largest)},
                                 {"proven", frontier.is_proven},
                                 {"points", nlohmann::ordered_json::array()}};
  for (const FrontierPoint& point : frontier.points) {
    const ChosenArchitecture student = student_of(table, found.table.problem, point.solution, metric);
    nlohmann::ordered_json one = {{"limit", shown(limits[limit], point.maximum)},
                                  {"proven", is_proven(point.solution)},
                                  {"supported", point.is_supported},
                                  {"predicted", student.predicted},
                                  {"blocks", blocks_json(student)}};
    json["points"].push_back(one);
  }
  return json.dump(2) + "\n";
}

}  // namespace tangram
