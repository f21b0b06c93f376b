#pragma once
#include "blocks/servers.h"
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
  int64_t most_variants = 0;                 ///< > 0: at most so many different subblock variants in the whole student
  std::vector<const Server*> servable = {};  ///< that all have to run the student, see blocks/servers.h
  SolverOptions solver = {};
};

/// What is decided before a problem is made; each way is a search of its own.
struct SearchChoice {
  std::vector<size_t> scenarios;  ///< one of each group that is limited: the batch size
  int64_t kv_heads = 0;           ///< of all full attention, where a server wants one number; 0: any
};

/// Every way to choose: the batch_choices, each with every number of KV heads that the table has if some server in
/// `servable` takes one number only. Throws Error (bad_input) as batch_choices does.
std::vector<SearchChoice> search_choices(const ScoreTable& table, const SearchRequest& request);

/// `servable llama.cpp, vllm`: the rule that those servers are, for messages.
std::string servable_text(std::span<const Server* const> servers);

struct SearchResult {
  std::vector<size_t> scenarios;  ///< one of each group that is limited: the batch size that was chosen
  size_t batch_choices = 1;       ///< between which it was chosen
  int64_t kv_heads = 0;           ///< as in SearchChoice: the number that was chosen
  size_t kv_heads_choices = 1;    ///< between which it was chosen
  TableProblem table;             ///< what was solved for it
  SolveResult solved;
  std::vector<std::vector<size_t>> relaxed_in = {};  ///< if infeasible: (limits) the scenarios in which the limit could
                                                     ///< be met at conflicts[k].smallest_with_others
};

/// Takes the entries out of a problem that break a rule: where a choice is required, everything else that would fill
/// that subblock, spans too. They are kept among Problem::taken_out. Throws Error (bad_input) for layers that the table
/// has not, and for a variant that none of them has, naming the nearest.
void apply_rules(Problem& problem, const ScoreTable& table, std::span<const ChoiceRule> rules);

/// Takes the entries out of a problem that one of the servers runs in no form, or that have other KV heads than
/// `kv_heads`, if that is not 0; all of it is one more of Problem::rules. Comes after apply_rules. Throws Error
/// (bad_input) if students of the table may have more layers than a server reads.
void apply_servable(Problem& problem, const ScoreTable& table, std::span<const Server* const> servers,
                    int64_t kv_heads);

/// The problem of a request in one of its search_choices. Throws Error (bad_input) as make_problem, apply_rules and
/// apply_servable do.
TableProblem make_search_problem(const ScoreTable& table, const SearchRequest& request, const SearchChoice& choice);

/// The best students under all constraints and rules. Where something is decided before (see search_choices), each
/// choice is solved for and the one with the best first student is kept; that student is proven if none of the others
/// can have a better one, and further students share its choice. It is infeasible if all are: then the one whose
/// nearest student is nearest is kept, and what each limit, and the number of variants, could be relaxed to is the
/// least change over all of them. Throws Error (bad_input) as make_search_problem and solve do.
SearchResult search(const ScoreTable& table, const SearchRequest& request);

}  // namespace tangram
