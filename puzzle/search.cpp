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

bool wants_one_number(std::span<const Server* const> servers) {
  return std::any_of(servers.begin(), servers.end(), [](const Server* s) { return !s->mixed_kv_heads; });
}

// Of full attention, ascending.
std::set<int64_t> kv_heads_in(const ScoreTable& table) {
  std::set<int64_t> numbers;
  for (const TableRow& row : table.rows)
    if (const int64_t heads = kv_heads_of(row.attention); heads > 0) numbers.insert(heads);
  return numbers;
}

bool is_servable(const TableRow& row, std::span<const Server* const> servers, int64_t kv_heads) {
  const int64_t heads = kv_heads_of(row.attention);
  if (heads > 0 && kv_heads > 0 && heads != kv_heads) return false;
  for (const Server* server : servers)
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      if (!name_in(row, s).empty() && !obstacle_of(*server, s, name_in(row, s)).empty()) return false;
  return true;
}

// For a server without linear attention, one becomes a layer more.
void check_layers(const ScoreTable& table, const Server& server) {
  std::set<int64_t> linear;
  for (const TableRow& row : table.rows)
    if (row.attention == "linear") linear.insert(row.first_layer);
  const int64_t most = table.layer_count + (server.forms.linear_attention ? 0 : std::ssize(linear));
  if (most > server.layers_at_most)
    throw bad_input("servable {}: students may have {} layers, and it reads at most {}", server.name, most,
                    server.layers_at_most);
}

bool has_student(const SolveResult& result) { return !result.solutions.empty(); }

// Whether `found` says more than `best`: a better student; else, that something is open; else, a nearer student.
bool is_better(const SolveResult& found, const SolveResult& best) {
  if (has_student(found) || has_student(best))
    return has_student(found) && (!has_student(best) || found.solutions[0].objective < best.solutions[0].objective);
  if (found.status != best.status) return found.status == SolveStatus::not_found;
  return found.nearest.excess < best.nearest.excess;
}

// No student has a smaller objective.
double least_objective(const SolveResult& result) {
  const double infinity = std::numeric_limits<double>::infinity();
  if (has_student(result)) return result.solutions[0].bound;
  return result.status == SolveStatus::infeasible ? infinity : -infinity;
}

// The first student, if there is one, is proven against no more than this.
void weaken(SolveResult& result, double bound) {
  if (result.solutions.empty() || bound >= result.solutions[0].bound) return;
  result.solutions[0].bound = bound;
  if (!is_proven(result.solutions[0])) result.status = SolveStatus::feasible;
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

std::vector<SearchChoice> search_choices(const ScoreTable& table, const SearchRequest& request) {
  std::set<int64_t> numbers;
  if (wants_one_number(request.servable)) numbers = kv_heads_in(table);
  if (numbers.empty()) numbers = {0};
  std::vector<SearchChoice> choices;
  for (const std::vector<size_t>& scenarios : batch_choices(table, request.constraints))
    for (const int64_t heads : numbers) choices.push_back({scenarios, heads});
  return choices;
}

std::string servable_text(std::span<const Server* const> servers) {
  std::vector<std::string_view> names;
  for (const Server* server : servers) names.push_back(server->name);
  return fmt::format("servable {}", fmt::join(names, ", "));
}

void apply_servable(Problem& problem, const ScoreTable& table, std::span<const Server* const> servers,
                    int64_t kv_heads) {
  if (servers.empty()) return;
  for (const Server* server : servers) check_layers(table, *server);
  const auto rule = static_cast<int32_t>(problem.rules.size());
  problem.rules.push_back(servable_text(servers));
  const auto allows = [&](const Entry& entry) {
    return is_servable(table.rows[static_cast<size_t>(entry.row)], servers, kv_heads);
  };
  for (TakenOut& taken : problem.taken_out)
    if (!allows(taken.entry)) taken.rules.push_back(rule);
  std::vector<Entry> left;
  for (Entry& entry : problem.entries) {
    if (allows(entry))
      left.push_back(std::move(entry));
    else
      problem.taken_out.push_back({std::move(entry), {rule}});
  }
  problem.entries = std::move(left);
}

TableProblem make_search_problem(const ScoreTable& table, const SearchRequest& request, const SearchChoice& choice) {
  TableProblem made = make_problem(table, request.metric, request.constraints, choice.scenarios);
  apply_rules(made.problem, table, request.rules);
  apply_servable(made.problem, table, request.servable, choice.kv_heads);
  made.problem.most_variants = request.most_variants;
  return made;
}

SearchResult search(const ScoreTable& table, const SearchRequest& request) {
  const std::vector<SearchChoice> choices = search_choices(table, request);
  const size_t batches = batch_choices(table, request.constraints).size();
  SolverOptions one = request.solver;
  if (choices.size() > 1) one.count = 1;
  SearchResult best;
  Relaxations relaxations;
  double bound = std::numeric_limits<double>::infinity();  // of any student of any choice
  for (size_t i = 0; i < choices.size(); ++i) {
    SearchResult found{.scenarios = choices[i].scenarios,
                       .batch_choices = batches,
                       .kv_heads = choices[i].kv_heads,
                       .kv_heads_choices = choices.size() / batches,
                       .table = make_search_problem(table, request, choices[i]),
                       .solved = {}};
    found.solved = solve(found.table.problem, one);
    if (found.solved.status == SolveStatus::infeasible) relaxations.add(found);
    bound = std::min(bound, least_objective(found.solved));
    if (i == 0 || is_better(found.solved, best.solved)) best = std::move(found);
  }
  if (best.solved.status == SolveStatus::infeasible) relaxations.enter(best);
  if (!has_student(best.solved) || choices.size() == 1) return best;
  if (request.solver.count > 1) best.solved = solve(best.table.problem, request.solver);
  weaken(best.solved, bound);
  return best;
}

}  // namespace tangram
