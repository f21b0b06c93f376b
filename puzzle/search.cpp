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

// Whether `found` says more than `best`: a better student; else, that something is open; else, a nearer student.
bool is_better(const SolveResult& found, const SolveResult& best) {
  if (has_student(found) || has_student(best))
    return has_student(found) && (!has_student(best) || found.solutions[0].objective < best.solutions[0].objective);
  if (found.status != best.status) return found.status == SolveStatus::not_found;
  return found.nearest.excess < best.nearest.excess;
}

/// What the limits of an infeasible search could be relaxed to, over all choices of batch sizes. Choices agree in the
/// order of limits, and in what was asked of each; so relaxations compare as parts of the limit.
class Relaxations {
 public:
  void add(const SearchResult& found) {
    const SolveResult& solved = found.solved;
    limits_.resize(solved.conflicts.size());
    for (size_t k = 0; k < limits_.size(); ++k) {
      const Conflict& conflict = solved.conflicts[k];
      const double maximum = found.table.problem.limits[k].maximum, part = conflict.smallest_with_others / maximum;
      if (part < limits_[k].beside) limits_[k].beside = part, limits_[k].in = found.scenarios;
      limits_[k].alone = std::min(limits_[k].alone, conflict.smallest / maximum);
      limits_[k].is_proven = limits_[k].is_proven && conflict.is_proven;
    }
    const VariantsConflict& variants = solved.variants_conflict;
    is_fewest_proven_ = is_fewest_proven_ && variants.is_proven;
    if (const int64_t n = variants.fewest_with_others; n > 0 && (fewest_ == 0 || n < fewest_)) fewest_ = n;
    rules_.resize(solved.rule_conflicts.size());
    for (size_t r = 0; r < rules_.size(); ++r) rules_[r] = rules_[r] || solved.rule_conflicts[r].is_enough;
  }

  void enter(SearchResult& best) const {
    for (size_t k = 0; k < limits_.size(); ++k) {
      const double maximum = best.table.problem.limits[k].maximum;
      Conflict& conflict = best.solved.conflicts[k];
      conflict.smallest = limits_[k].alone * maximum;
      conflict.smallest_with_others = limits_[k].beside * maximum;
      conflict.is_proven = limits_[k].is_proven;
      best.relaxed_in.push_back(limits_[k].in);
    }
    best.solved.variants_conflict.fewest_with_others = fewest_;
    best.solved.variants_conflict.is_proven = is_fewest_proven_;
    for (size_t r = 0; r < rules_.size(); ++r) best.solved.rule_conflicts[r].is_enough = rules_[r];
  }

 private:
  struct OfLimit {
    double alone = std::numeric_limits<double>::infinity(), beside = alone;  // parts of the limit
    bool is_proven = true;
    std::vector<size_t> in = {};  // scenarios of `beside`
  };
  std::vector<OfLimit> limits_;
  std::vector<char> rules_;
  int64_t fewest_ = 0;
  bool is_fewest_proven_ = true;
};

}  // namespace

std::string text_of(const ChoiceRule& rule) {
  std::string variants;
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    if (!name_in(rule, s).empty())
      variants += fmt::format("{}{}={}", variants.empty() ? "" : ", ", name_of(s), name_in(rule, s));
  return fmt::format("{} {}{}:{}", rule.forbidden ? "forbid" : "require", rule.first_layer,
                     rule.last_layer > rule.first_layer ? fmt::format("-{}", rule.last_layer) : "", variants);
}

void apply_rules(Problem& problem, const ScoreTable& table, std::span<const ChoiceRule> rules) {
  std::vector<ChoiceRule> different;
  for (const ChoiceRule& rule : rules) {
    check_rule(table, rule);
    if (std::count(problem.rules.begin(), problem.rules.end(), text_of(rule)) > 0) continue;
    problem.rules.push_back(text_of(rule));
    different.push_back(rule);
  }
  std::vector<Entry> left;
  for (Entry& entry : problem.entries) {
    const TableRow& row = table.rows[static_cast<size_t>(entry.row)];
    std::vector<int32_t> broken;
    for (size_t r = 0; r < different.size(); ++r)
      if (breaks(row, different[r], Subblock::attention) || breaks(row, different[r], Subblock::ffn))
        broken.push_back(static_cast<int32_t>(r));
    if (broken.empty())
      left.push_back(std::move(entry));
    else
      problem.taken_out.push_back({std::move(entry), std::move(broken)});
  }
  problem.entries = std::move(left);
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
  Relaxations relaxations;
  for (size_t i = 0; i < choices.size(); ++i) {
    SearchResult found{.scenarios = choices[i],
                       .batch_choices = choices.size(),
                       .table = make_search_problem(table, request, choices[i]),
                       .solved = {}};
    found.solved = solve(found.table.problem, one);
    if (found.solved.status == SolveStatus::infeasible) relaxations.add(found);
    if (i == 0 || is_better(found.solved, best.solved)) best = std::move(found);
  }
  if (best.solved.status == SolveStatus::infeasible) relaxations.enter(best);
  if (choices.size() > 1 && request.solver.count > 1 && has_student(best.solved))
    best.solved = solve(best.table.problem, request.solver);
  return best;
}

}  // namespace tangram
