#pragma once
#include "puzzle/limits.h"
#include "puzzle/solver.h"

namespace tangram {

/// What a student has to have, or must not have, at some layers.
struct ChoiceRule {
  int64_t first_layer = 0, last_layer = 0;
  std::string attention = {}, ffn = {};  ///< names of variants; an empty one says nothing
  bool forbidden = false;                ///< else required
};

/// The rule as a command line spells it, and whether it requires or forbids: `require 0-3:attention=gqa_8`.
std::string text_of(const ChoiceRule& rule);

/// What a user asks of a score table.
struct SearchRequest {
  std::string metric;  ///< made best, in the direction that the table gives it
  std::vector<Constraint> constraints = {};
  std::vector<ChoiceRule> rules = {};
  int64_t most_variants = 0;  ///< > 0: at most so many different subblock variants in the whole student
  SolverOptions solver = {};
};

struct SearchResult {
  std::vector<size_t> scenarios;  ///< one of each group that is limited: the batch size that was chosen
  size_t batch_choices = 1;       ///< between which it was chosen
  TableProblem table;             ///< what was solved for it
  SolveResult solved;
  std::vector<std::vector<size_t>> relaxed_in = {};  ///< if infeasible: (limits) the scenarios in which the limit could
                                                     ///< be met at conflicts[k].smallest_with_others
};

/// Takes the entries out of a problem that break a rule: where a choice is required, everything else that would fill
/// that subblock, spans too. They are kept among Problem::taken_out. Throws Error (bad_input) for layers that the table
/// has not, and for a variant that none of them has, naming the nearest.
void apply_rules(Problem& problem, const ScoreTable& table, std::span<const ChoiceRule> rules);

/// The problem of a request in one of its batch_choices. Throws Error (bad_input) as make_problem and apply_rules do.
TableProblem make_search_problem(const ScoreTable& table, const SearchRequest& request,
                                 std::span<const size_t> scenarios);

/// The best students under all constraints and rules. Where the batch size is free (see batch_choices), each one is
/// solved for and the one with the best first student is kept. It is infeasible if all are: then the one whose nearest
/// student is nearest is kept, and what each limit, and the number of variants, could be relaxed to is the least change
/// over all of them. Throws Error (bad_input) as make_problem, apply_rules and solve do.
SearchResult search(const ScoreTable& table, const SearchRequest& request);

}  // namespace tangram
