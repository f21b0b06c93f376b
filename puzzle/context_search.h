#pragma once
#include <functional>

#include "puzzle/score_table.h"
#include "puzzle/solver.h"

namespace tangram {

// Sums of replace-one scores, taken in the teacher, misjudge students that differ from it in much. Scores taken in the
// context of a student say what an exchange adds to that student; a search by them near it gives a better one, and so
// on until what is measured of whole students gets no better.

/// The rows of a student with row `entry` in place of what it displaces, ordered by first slot. A row of the student
/// that the entry covers only in part goes as a whole; the teacher's own fill what is left of it.
std::vector<int64_t> placed(const ScoreTable& table, std::span<const int64_t> student, int64_t entry);

/// The rows of a student with the teacher's own in place of those that `entry` covers only in part: what placing the
/// entry is compared with. The student itself if there are none.
std::vector<int64_t> without_partly_covered(const ScoreTable& table, std::span<const int64_t> student, int64_t entry);

/// One subblock of a student, in the order in which they run.
struct RowSubblock {
  int64_t row;
  Subblock subblock;
  bool operator==(const RowSubblock&) const = default;
};
std::vector<RowSubblock> subblocks_of(const ScoreTable& table, std::span<const int64_t> rows);

/// What makes one sequence of subblocks of another: [first, last) of it exchanged for `instead`.
struct Exchange {
  size_t first = 0, last = 0;
  std::vector<RowSubblock> instead;
};
Exchange exchange_between(const std::vector<RowSubblock>& from, const std::vector<RowSubblock>& to);

/// Measures whole students, given by their rows: the loss that the search makes small, such as the KL divergence.
using MeasureStudents =
    std::function<std::vector<double>(std::span<const int64_t> student, std::span<const std::vector<int64_t>> others)>;

/// What each entry of the table would add to a student's loss, and so what a search near it adds up:
///
///   loss(student with the entry placed) - loss(student without what it covers in part)
///     + sum over those of [loss(student without it) - loss(student)] * covered slots / slots
///
/// 0 for the student's own rows; NaN for rows of which `wanted` is false. `measure(student, others)` gives the losses
/// of the others, which differ from the student in little.
std::vector<double> changes_around(const ScoreTable& table, std::span<const int64_t> student,
                                   const std::vector<bool>& wanted, const MeasureStudents& measure);

struct ContextOptions {
  int64_t rounds = 10;     ///< scorings at most
  int64_t candidates = 4;  ///< students that are measured of each search near the current one: the best by its scores
};

/// One search near the current student.
struct ContextRound {
  std::vector<double> predicted, measured;  ///< losses of the candidates
  int64_t slots_changed = 0;                ///< from the current student to the first of them
  double best = 0;                          ///< measured loss of the best of them
  bool accepted = false;                    ///< better than the current one
};

struct ContextResult {
  std::vector<int64_t> rows;   ///< of the best student
  std::vector<double> before;  ///< measured losses of the students that it was begun with
  double after = 0;            ///< of the best student
  double predicted = 0;        ///< of the best one, by the scores around the one before it; NaN if it was begun with
  std::vector<ContextRound> rounds;
};

/// Measures some students and searches from the best of them on: scores around it, solves for the best sums of changes,
/// measures what comes of them, and goes on from the best if that is better; else tries again with at most half as many
/// slots changed. It ends when nothing that the scores promise holds, or after so many scorings. The result is never
/// worse than any of the first students, on what `measure` measures. `heard` hears of every search. Limits are those of
/// `problem`, whose entries' rows are the table's.
ContextResult search_in_context(const ScoreTable& table, const Problem& problem,
                                const std::vector<std::vector<int64_t>>& students, const ContextOptions& options,
                                const MeasureStudents& measure, const std::function<void(const ContextRound&)>& heard);

}  // namespace tangram
