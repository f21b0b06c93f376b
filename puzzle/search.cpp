#include "puzzle/search.h"

#include <algorithm>
#include <set>

namespace tangram {
namespace {

bool overlaps(const TableRow& row, const ChoiceRule& rule) {
  return row.first_layer <= rule.last_layer && rule.first_layer < row.first_layer + row.layer_count;
}

const std::string& name_in(const TableRow& row, Subblock s) {
  return s == Subblock::attention ? row.attention : row.ffn;
}
const std::string& name_in(const ChoiceRule& rule, Subblock s) {
  return s == Subblock::attention ? rule.attention : rule.ffn;
}

// Whether a rule on one subblock rules a row out.
bool breaks(const TableRow& row, const ChoiceRule& rule, Subblock s) {
  const std::string &has = name_in(row, s), &said = name_in(rule, s);
  if (has.empty() || said.empty() || !overlaps(row, rule)) return false;
  // One block for several layers is not what is required of one of them.
  return rule.forbidden ? has == said : has != said || row.layer_count > 1;
}

void check_rule(const ScoreTable& table, const ChoiceRule& rule) {
  if (rule.first_layer < 0 || rule.last_layer < rule.first_layer || rule.last_layer >= table.layer_count)
    throw bad_input("a choice for layers {} to {}; the table has layers 0 to {}", rule.first_layer, rule.last_layer,
                    table.layer_count - 1);
  for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
    if (name_in(rule, s).empty()) continue;
    std::set<std::string> known;
    for (const TableRow& row : table.rows)
      if (overlaps(row, rule) && !name_in(row, s).empty()) known.insert(name_in(row, s));
    if (!known.count(name_in(rule, s)))
      throw unknown_name(fmt::format("{} in layers {} to {}", name_of(s), rule.first_layer, rule.last_layer),
                         name_in(rule, s), std::vector<std::string>(known.begin(), known.end()));
  }
}

bool has_student(const SolveResult& result) { return !result.solutions.empty(); }

}  // namespace

void apply_rules(Problem& problem, const ScoreTable& table, std::span<const ChoiceRule> rules) {
  for (const ChoiceRule& rule : rules) check_rule(table, rule);
  std::erase_if(problem.entries, [&](const Entry& entry) {
    const TableRow& row = table.rows[static_cast<size_t>(entry.row)];
    return std::any_of(rules.begin(), rules.end(), [&](const ChoiceRule& rule) {
      return breaks(row, rule, Subblock::attention) || breaks(row, rule, Subblock::ffn);
    });
  });
}

TableProblem make_search_problem(const ScoreTable& table, const SearchRequest& request,
                                 std::span<const size_t> scenarios) {
  TableProblem made = make_problem(table, request.metric, request.constraints, scenarios);
  apply_rules(made.problem, table, request.rules);
  made.problem.most_variants = request.most_variants;
  return made;
}

SearchResult search(const ScoreTable& table, const SearchRequest& request) {
  const std::vector<std::vector<size_t>> choices = batch_choices(table, request.constraints);
  SolverOptions one = request.solver;
  if (choices.size() > 1) one.count = 1;
  SearchResult best;
  for (size_t i = 0; i < choices.size(); ++i) {
    SearchResult found{.scenarios = choices[i],
                       .batch_choices = choices.size(),
                       .table = make_search_problem(table, request, choices[i]),
                       .solved = {}};
    found.solved = solve(found.table.problem, one);
    const bool better =
        has_student(found.solved) &&
        (!has_student(best.solved) || found.solved.solutions[0].objective < best.solved.solutions[0].objective);
    if (i == 0 || better) best = std::move(found);
  }
  if (choices.size() > 1 && request.solver.count > 1 && has_student(best.solved))
    best.solved = solve(best.table.problem, request.solver);
  return best;
}

}  // namespace tangram
