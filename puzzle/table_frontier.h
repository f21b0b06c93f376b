#pragma once
#include "puzzle/frontier.h"
#include "puzzle/search.h"

namespace tangram {

/// A frontier of a score table. Where something is decided before (see search_choices), each choice is a problem of its
/// own, and every point of the frontier says by `problem` which of them it takes.
struct TableFrontier {
  std::vector<std::vector<size_t>> choices;  ///< (problems)  the scenarios that count
  std::vector<Problem> problems;
  size_t limit = 0;  ///< of every problem: the one that moves
  Frontier frontier;
  bool has_supported = false;  ///< whether supported points were asked for: else `is_supported` says nothing

  /// The name of a limit of all problems: `memory (chat)` where it is on other batch sizes in each.
  std::string name_of_limit(size_t k) const;
};

/// The limit that moves along a frontier over this quantity. It binds nobody; for a search that is to say why the other
/// limits cannot be met.
Constraint moved_limit(Quantity quantity, const std::string& scenario);

/// The best student for every value of a limit on `moved`, within the other constraints of the request; of its solver's
/// options only the time counts, and of `options` limit and solver are the request's. Throws Error (bad_input) as
/// `search` does, if the request limits the same, and if several scenarios count.
TableFrontier trace_frontier(const ScoreTable& table, const SearchRequest& request, const Constraint& moved,
                             FrontierOptions options);

}  // namespace tangram
