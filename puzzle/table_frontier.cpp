#include "puzzle/table_frontier.h"

#include <algorithm>

namespace tangram {

std::string TableFrontier::name_of_limit(size_t k) const {
  const std::string& name = problems[0].limits[k].name;
  const bool is_shared =
      std::all_of(problems.begin(), problems.end(), [&](const Problem& p) { return p.limits[k].name == name; });
  return is_shared ? name : name.substr(0, name.rfind('@')) + ")";
}

Constraint moved_limit(Quantity quantity, const std::string& scenario) {
  return {.quantity = quantity,
          .scenario = scenario,
          .bound = quantity == Quantity::throughput ? 1e-3 : 100,
          .relative = true,
          .moves = true};
}

TableFrontier trace_frontier(const ScoreTable& table, const SearchRequest& request, const Constraint& moved,
                             FrontierOptions options) {
  const std::string name =
      fmt::format("{}{}{}", moved.scenario, moved.scenario.empty() ? "" : ".", name_of(moved.quantity));
  for (const Constraint& c : request.constraints)
    if (c.quantity == moved.quantity && c.scenario == moved.scenario)
      throw bad_input("a frontier over {}: the limit on it moves; leave the limit on {} out", name, name);
  SearchRequest whole = request;
  whole.constraints.push_back(moved);
  TableFrontier traced{.choices = {}, .problems = {}, .frontier = {}, .has_supported = options.supported};
  const auto limits = [&](const std::vector<size_t>& choice) {
    return make_problem(table, request.metric, request.constraints, choice).problem.limits.size();
  };
  for (const SearchChoice& choice : search_choices(table, whole)) {
    traced.choices.push_back(choice.scenarios);
    traced.problems.push_back(make_search_problem(table, whole, choice).problem);
  }
  traced.limit = limits(traced.choices[0]);
  if (const size_t own = traced.problems[0].limits.size() - traced.limit; own != 1)
    throw bad_input("a frontier over {}: {} scenarios; say which, such as {}.{}", name, own,
                    table.scenarios[traced.choices[0][0]].group(), name_of(moved.quantity));
  options.limit = traced.limit;
  options.solver = {.seconds_at_most = request.solver.seconds_at_most};
  traced.frontier = trace_frontier(traced.problems, options);
  return traced;
}

}  // namespace tangram
