#include "puzzle/conflicts.h"

#include <algorithm>

#include "puzzle/one_search.h"

namespace tangram {
namespace {

constexpr int64_t kNodes = 30'000;  // of each search: an answer without proof is better than a late one

/// What of all that is asked counts; the rest is as if nobody had asked for it.
struct Asked {
  std::vector<char> limits, rules;
  bool variants = true;
};

Asked everything(const Problem& problem) {
  return {std::vector<char>(problem.limits.size(), 1), std::vector<char>(problem.rules.size(), 1), true};
}

Asked nothing(const Problem& problem) {
  return {std::vector<char>(problem.limits.size(), 0), std::vector<char>(problem.rules.size(), 0), false};
}

// All entries that the rules leave, with their costs under every limit.
Problem under_rules(const Problem& problem, const std::vector<char>& rules) {
  Problem other = problem;
  other.rules.clear(), other.taken_out.clear();
  for (const TakenOut& taken : problem.taken_out)
    if (std::none_of(taken.rules.begin(), taken.rules.end(), [&](int32_t r) { return rules[static_cast<size_t>(r)]; }))
      other.entries.push_back(taken.entry);
  return other;
}

Problem under(const Problem& problem, const Asked& asked) {
  Problem other = under_rules(problem, asked.rules);
  if (!asked.variants) other.most_variants = 0;
  other.limits.clear();
  for (size_t k = 0; k < asked.limits.size(); ++k)
    if (asked.limits[k]) other.limits.push_back(problem.limits[k]);
  for (Entry& entry : other.entries) {
    std::vector<double> costs;
    for (size_t k = 0; k < asked.limits.size(); ++k)
      if (asked.limits[k]) costs.push_back(entry.costs[k]);
    entry.costs = std::move(costs);
  }
  return other;
}

enum class Attainable : uint8_t { yes, no, unknown };

struct Attempt {
  Attainable attainable = Attainable::unknown;
  Solution solution;  ///< if attainable
};

Attempt attempt(const Problem& problem, const SolverOptions& options) {
  const OneResult found =
      search_one({.problem = problem, .nodes_at_most = kNodes, .is_excess = true, .enough = 0, .hopeless = 0}, options);
  if (found.value <= 0) return {Attainable::yes, found.solution};
  if (found.status == SolveStatus::infeasible || found.bound > 0) return {Attainable::no, {}};
  return {};
}

class Analysis {
 public:
  Analysis(SolveResult& result, const Problem& problem, const SolverOptions& options)
      : result_(result), problem_(problem), options_(options), needed_(everything(problem)) {
    options_.known.clear(), options_.prices.clear();  // none of these problems is much like the one asked for
    options_.gap = 0;
  }

  void run() {
    find_irreducible_set();
    for (size_t k = 0; k < problem_.limits.size(); ++k) result_.conflicts.push_back(conflict_of(k));
    for (size_t r = 0; r < problem_.rules.size(); ++r) result_.rule_conflicts.push_back(rule_conflict_of(r));
    if (problem_.most_variants > 0) find_fewest_variants();
    find_nearest();
  }

 private:
  // Leaves out one after the other, for good where the rest still exclude each other. Where rules and the number of
  // variants leave no student whatever the limits are, they are the answer; else limits are what is tried to be kept.
  void find_irreducible_set() {
    needed_.variants = problem_.most_variants > 0;
    if (needed_.variants || !problem_.rules.empty()) {
      Asked no_limits = needed_, no_rules = needed_;
      no_limits.limits.assign(problem_.limits.size(), 0);
      no_rules.rules.assign(problem_.rules.size(), 0);
      if (excludes(no_limits)) {
        needed_ = no_limits;
        spare(needed_.variants);
      } else if (excludes(no_rules)) {
        needed_ = no_rules;
      }
    }
    for (char& rule : needed_.rules) spare(rule);
    spare(needed_.variants);
    for (char& limit : needed_.limits) spare(limit);
  }

  template <class Flag>
  void spare(Flag& counts) {
    if (!counts) return;
    counts = false;
    if (!excludes(needed_)) counts = true;
  }

  // Whether nobody can have all of this: proven, or else it is noted that something was not.
  bool excludes(const Asked& asked) {
    const Attainable found = attempt(under(problem_, asked), options_).attainable;
    if (found == Attainable::unknown) result_.conflicts_are_proven = false;
    return found == Attainable::no;
  }

  struct Smallest {
    double total = std::numeric_limits<double>::infinity();
    bool is_proven = true;
  };

  Smallest smallest_total(size_t k, Asked asked) const {
    asked.limits[k] = 0;
    Problem other = under(problem_, asked);
    const Problem whole = under_rules(problem_, asked.rules);  // the same entries
    for (size_t i = 0; i < other.entries.size(); ++i) other.entries[i].objective = whole.entries[i].costs[k];
    const OneResult found = search_one({.problem = other, .nodes_at_most = kNodes}, options_);
    Smallest smallest;
    smallest.is_proven = found.status == SolveStatus::optimal || found.status == SolveStatus::infeasible;
    if (found.status == SolveStatus::optimal || found.status == SolveStatus::feasible)
      smallest.total = evaluate(whole, found.solution.entries).totals[k];
    return smallest;
  }

  Conflict conflict_of(size_t k) const {
    const Smallest alone = smallest_total(k, nothing(problem_)), beside = smallest_total(k, everything(problem_));
    return {.smallest = alone.total,
            .smallest_with_others = beside.total,
            .is_proven = alone.is_proven && beside.is_proven,
            .is_needed = needed_.limits[k] != 0};
  }

  RuleConflict rule_conflict_of(size_t r) const {
    if (!needed_.rules[r]) return {};  // without it the others of the set are still there
    Asked others = everything(problem_);
    others.rules[r] = 0;
    return {.is_enough = attempt(under(problem_, others), options_).attainable == Attainable::yes, .is_needed = true};
  }

  // By bisection: who may use more variants can keep all that who may use fewer can.
  void find_fewest_variants() {
    VariantsConflict& conflict = result_.variants_conflict;
    conflict.is_needed = needed_.variants;
    Asked others = everything(problem_);
    others.variants = false;
    Problem other = under(problem_, others);
    int64_t too_few = problem_.most_variants, enough = 0;
    const auto try_with = [&](int64_t most_variants) {
      other.most_variants = most_variants;
      const Attempt tried = attempt(other, options_);
      if (tried.attainable == Attainable::unknown) conflict.is_proven = false;
      if (tried.attainable == Attainable::yes)
        enough = variant_count(other, tried.solution);
      else
        too_few = most_variants;
      return tried.attainable == Attainable::yes;
    };
    if (!try_with(0)) return;
    while (enough - too_few > 1) try_with((too_few + enough) / 2);
    conflict.fewest_with_others = enough;
  }

  void find_nearest() {
    const OneResult nearest =
        search_one({.problem = problem_, .nodes_at_most = kNodes, .is_excess = true, .enough = 0}, options_);
    result_.nearest.bound = nearest.bound;
    if (nearest.status == SolveStatus::infeasible || nearest.status == SolveStatus::not_found) return;
    result_.nearest.solution.push_back(nearest.solution);
    result_.nearest.excess = nearest.value;
  }

  SolveResult& result_;
  const Problem& problem_;
  SolverOptions options_;
  Asked needed_;
};

}  // namespace

void analyse_conflicts(SolveResult& result, const Problem& problem, const SolverOptions& options) {
  Analysis(result, problem, options).run();
}

}  // namespace tangram
