#pragma once
#include <limits>
#include <string>
#include <vector>

#include "blocks/variant.h"

namespace tangram {

/// A slot is one subblock of one layer: what every student fills exactly once.
constexpr int32_t slot_of(int64_t layer, Subblock subblock) {
  return static_cast<int32_t>(2 * layer + (subblock == Subblock::ffn));
}
constexpr int64_t layer_of(int32_t slot) { return slot / 2; }

/// Something that can be chosen. A plain variant fills one slot, a pair both slots of a layer, a span those of several
/// layers.
struct Entry {
  int64_t row = 0;             ///< what it is, in the caller's list; different for every entry
  int32_t kind = 0;            ///< equal for the same choice at different layers
  std::vector<int32_t> slots;  ///< ascending
  double objective = 0;        ///< what it adds to the total that is made smallest
  double parameters = 0;
  std::vector<double> costs = {};      ///< (limits)  what it adds to each
  std::vector<int32_t> variants = {};  ///< the subblock variants it uses: a pair or span two, equal wherever they stand
};

/// An upper limit: fixed + sum of the chosen entries' costs <= maximum.
struct LinearLimit {
  std::string name;
  std::string units;
  double maximum = 0;
  double fixed = 0;    ///< outside the blocks
  double tokens = 0;   ///< > 0: users think of it as a least throughput, tokens / total
  double teacher = 0;  ///< > 0: the limit was given as a part of the teacher's own total, which is this
  bool moves = false;  ///< along a frontier: nobody has asked for its maximum, which binds no student
};

/// A limit's total, or its maximum, as users think of it: of a least throughput, tokens a second.
inline double shown(const LinearLimit& limit, double total) { return limit.tokens > 0 ? limit.tokens / total : total; }

/// An entry that the user's rules forbid, and which of Problem::rules do, ascending.
struct TakenOut {
  Entry entry;
  std::vector<int32_t> rules;
};

/// Which entries together fill every slot exactly once, keep every limit, and have the smallest total objective
/// (Bercovich et al. 2024, arXiv:2411.19146, appendix B).
struct Problem {
  int64_t layer_count = 0;
  std::vector<Entry> entries;
  std::vector<LinearLimit> limits;
  int64_t most_variants = 0;             ///< > 0: at most so many different subblock variants in the whole student
  std::vector<std::string> rules = {};   ///< what the user requires and forbids, for messages
  std::vector<TakenOut> taken_out = {};  ///< by the rules, and so not among `entries`: asked only why nothing is left
};

struct SolverOptions {
  int64_t count = 1;              ///< solutions, each the best of those that differ enough from all before it
  double min_difference = 0;      ///< part of the layers in which any two of them differ, at least one layer
  double seconds_at_most = 3600;  ///< for each solution; running out of it is a status
  int64_t nodes_more = 8'000;     ///< subproblems of the search for each solution after the first; then its gap is told
  double gap = 0;                 ///< a student within this part of the best objective will do; it is `feasible`
  bool plain = false;             ///< CBC alone, on the whole 0-1 program: slow, and an oracle for the other way
  std::vector<std::vector<int32_t>> known = {};  ///< students to begin from, such as those of a problem much like this
  std::vector<double> prices = {};               ///< (limits)  to begin from, as in Solution; or none
};

enum class SolveStatus : uint8_t {
  optimal,     ///< each solution is proven best; fewer than asked for: proven that there are no more
  feasible,    ///< solutions keep every limit; that they are the best, or all there are, is not proven
  infeasible,  ///< proven that nothing keeps every limit and rule; conflicts say why
  not_found,   ///< nothing that keeps every limit was found; there may be something
};

/// A student. Its sums are added up anew from the entries, in the order of `entries`.
struct Solution {
  std::vector<int32_t> entries;  ///< of the problem, ordered by first slot
  double objective = 0;
  double bound = -std::numeric_limits<double>::infinity();  ///< nothing better than this exists; equal if proven best
  double parameters = 0;
  std::vector<double> totals;       ///< (limits)  fixed parts included
  std::vector<double> prices = {};  ///< (limits)  objective that one more unit of each limit saves, by the relaxation
};

/// Whether nothing better exists.
inline bool is_proven(const Solution& solution) { return solution.bound >= solution.objective; }

/// What stands in the way of one limit. Infinity where not even that exists. Here and below, `is_needed` says that
/// something is in the one set that was found of limits and rules that exclude each other and, were any one of the set
/// left out, would not.
struct Conflict {
  double smallest = 0;              ///< total of any student at all, whatever else is asked
  double smallest_with_others = 0;  ///< total that can be reached while all else is kept: what it must be relaxed to
  bool is_proven = true;            ///< that nothing smaller can be reached
  bool is_needed = false;
};

/// The same of the limit on different variants.
struct VariantsConflict {
  int64_t fewest_with_others = 0;  ///< that can be reached while all else is kept; 0: that alone would not do
  bool is_proven = true;
  bool is_needed = false;
};

/// The same of a rule.
struct RuleConflict {
  bool is_enough = false;  ///< without it all else can be kept
  bool is_needed = false;
};

/// The student that exceeds the limits least: total <= (1 + excess) * maximum for each, with the smallest excess. A
/// maximum of 0 or below is exceeded by parts of its size, or of the largest cost if it is 0.
struct Nearest {
  std::vector<Solution> solution;  ///< none if no student fills every layer; its objective is not the best
  double excess = std::numeric_limits<double>::infinity();
  double bound = 0;  ///< no student has a smaller excess; equal if proven
};

struct SolveResult {
  SolveStatus status = SolveStatus::not_found;
  std::vector<Solution> solutions;
  std::vector<Conflict> conflicts = {};           ///< (limits)  if infeasible
  VariantsConflict variants_conflict = {};        ///< if infeasible
  std::vector<RuleConflict> rule_conflicts = {};  ///< (rules)  if infeasible
  bool conflicts_are_proven = true;  ///< if infeasible: that none of what `is_needed` can be left out of the set
  Nearest nearest = {};              ///< if infeasible
};

/// Throws Error (bad_input) unless sizes agree, numbers are finite, rows differ, slots lie within the layers and each
/// of them can be filled by some entry, or could be but for the rules.
void check_problem(const Problem& problem);

/// Solution of these entries, in any order. Throws Error unless they fill every slot exactly once.
Solution evaluate(const Problem& problem, std::vector<int32_t> entries);

/// The rows of a solution's entries, ordered by first slot.
std::vector<int64_t> rows_of(const Problem& problem, const Solution& solution);

/// The entries with these rows. Throws Error if one has none.
std::vector<int32_t> entries_of(const Problem& problem, const std::vector<int64_t>& rows);

/// Whether a total keeps a limit: exactly, but for the rounding of the sums (1e-13 of the limit).
bool keeps(const LinearLimit& limit, double total);
bool keeps_limits(const Problem& problem, const Solution& solution);

/// How many different subblock variants a solution uses.
int64_t variant_count(const Problem& problem, const Solution& solution);
/// Whether it keeps everything that is asked of it: limits and the number of variants.
bool is_allowed(const Problem& problem, const Solution& solution);

/// How far a solution is beyond the limit that it exceeds most, as Nearest counts; 0 if it keeps them all.
double excess_of(const Problem& problem, const Solution& solution);
/// What an excess of 1 of a limit is: its maximum's size, or the largest cost if that is 0.
double unit_of_excess(const Problem& problem, size_t limit);

/// In how many layers two solutions differ: some slot of the layer is filled by another entry.
int64_t layers_that_differ(const Problem& problem, const Solution& a, const Solution& b);
std::vector<char> layers_differing(const Problem& problem, const Solution& a, const Solution& b);  ///< (layers)  which

}  // namespace tangram
