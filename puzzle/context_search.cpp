#include "puzzle/context_search.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "puzzle/limits.h"

namespace tangram {
namespace {

const TableRow& row_at(const ScoreTable& table, int64_t r) { return table.rows[static_cast<size_t>(r)]; }

size_t slots_shared(const ScoreTable& table, int64_t a, int64_t b) {
  const std::vector<int32_t> of_a = slots_of(row_at(table, a)), of_b = slots_of(row_at(table, b));
  return static_cast<size_t>(std::count_if(
      of_a.begin(), of_a.end(), [&](int32_t slot) { return std::binary_search(of_b.begin(), of_b.end(), slot); }));
}

bool is_partly_covered(const ScoreTable& table, int64_t row, int64_t entry) {
  const size_t shared = slots_shared(table, row, entry);
  return shared > 0 && shared < slots_of(row_at(table, row)).size();
}

// Rows that fill every slot: `rows`, whose slots do not overlap, and the teacher's own where they leave one. A
// teacher's row that would overlap is none that can fill.
std::vector<int64_t> filled_up(const ScoreTable& table, std::vector<int64_t> rows) {
  std::vector<bool> filled(static_cast<size_t>(2 * table.layer_count));
  const auto fill = [&](int64_t r) {
    for (const int32_t slot : slots_of(row_at(table, r))) filled[static_cast<size_t>(slot)] = true;
  };
  for (const int64_t r : rows) fill(r);
  for (const int64_t own : teacher_rows(table)) {
    const std::vector<int32_t> slots = slots_of(row_at(table, own));
    if (std::any_of(slots.begin(), slots.end(), [&](int32_t slot) { return filled[static_cast<size_t>(slot)]; }))
      continue;
    rows.push_back(own), fill(own);
  }
  CHECK(std::find(filled.begin(), filled.end(), false) == filled.end(), "the teacher's rows cannot fill a student up");
  std::sort(rows.begin(), rows.end(),
            [&](int64_t a, int64_t b) { return slots_of(row_at(table, a))[0] < slots_of(row_at(table, b))[0]; });
  return rows;
}

template <class Drop>
std::vector<int64_t> without(std::span<const int64_t> rows, Drop drop) {
  std::vector<int64_t> kept;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(kept), [&](int64_t r) { return !drop(r); });
  return kept;
}

}  // namespace

std::vector<int64_t> placed(const ScoreTable& table, std::span<const int64_t> student, int64_t entry) {
  std::vector<int64_t> rows = without(student, [&](int64_t r) { return slots_shared(table, r, entry) > 0; });
  rows.push_back(entry);
  return filled_up(table, std::move(rows));
}

std::vector<int64_t> without_partly_covered(const ScoreTable& table, std::span<const int64_t> student, int64_t entry) {
  return filled_up(table, without(student, [&](int64_t r) { return is_partly_covered(table, r, entry); }));
}

std::vector<RowSubblock> subblocks_of(const ScoreTable& table, std::span<const int64_t> rows) {
  std::vector<RowSubblock> subblocks;
  for (const int64_t r : rows) {
    if (!row_at(table, r).attention.empty()) subblocks.push_back({r, Subblock::attention});
    if (!row_at(table, r).ffn.empty()) subblocks.push_back({r, Subblock::ffn});
  }
  return subblocks;
}

Exchange exchange_between(const std::vector<RowSubblock>& from, const std::vector<RowSubblock>& to) {
  const auto [f, t] = std::mismatch(from.begin(), from.end(), to.begin(), to.end());
  const std::ptrdiff_t most = std::min(from.end() - f, to.end() - t);
  std::ptrdiff_t same = 0;  // at the end
  while (same < most && *(from.end() - 1 - same) == *(to.end() - 1 - same)) ++same;
  return {static_cast<size_t>(f - from.begin()), from.size() - static_cast<size_t>(same), {t, to.end() - same}};
}

std::vector<double> changes_around(const ScoreTable& table, std::span<const int64_t> student,
                                   const std::vector<bool>& wanted, const MeasureStudents& measure) {
  // Every student that is needed, once.
  std::map<std::vector<int64_t>, size_t> numbers;
  std::vector<std::vector<int64_t>> others;
  const auto number_of = [&](std::vector<int64_t> rows) {
    const auto [at, is_new] = numbers.try_emplace(rows, others.size());
    if (is_new) others.push_back(std::move(rows));
    return at->second;
  };
  const std::vector<int64_t> own(student.begin(), student.end());
  const size_t itself = number_of(own);
  struct Part {
    size_t without;  // student without a row that is covered in part
    double share;
  };
  struct Needed {
    size_t row, with, compared;
    std::vector<Part> parts;
  };
  std::vector<Needed> needed;
  for (size_t e = 0; e < table.rows.size(); ++e) {
    const auto entry = static_cast<int64_t>(e);
    if (!wanted[e] || std::find(own.begin(), own.end(), entry) != own.end()) continue;
    Needed n{e, number_of(placed(table, own, entry)), number_of(without_partly_covered(table, own, entry)), {}};
    for (const int64_t r : own)
      if (is_partly_covered(table, r, entry))
        n.parts.push_back({number_of(filled_up(table, without(own, [&](int64_t o) { return o == r; }))),
                           double(slots_shared(table, r, entry)) / double(slots_of(row_at(table, r)).size())});
    needed.push_back(std::move(n));
  }
  const std::vector<double> losses = measure(student, others);
  std::vector<double> changes(table.rows.size(), kMissing);
  for (const int64_t r : own) changes[static_cast<size_t>(r)] = 0;
  for (const Needed& n : needed) {
    double& change = changes[n.row] = losses[n.with] - losses[n.compared];
    for (const Part& part : n.parts) change += part.share * (losses[part.without] - losses[itself]);
  }
  return changes;
}

namespace {

/// The problem of the changes around a student, with one more limit: on the slots that are filled otherwise.
Problem local_problem(const Problem& problem, std::span<const int64_t> student, const std::vector<double>& changes) {
  Problem local = problem;
  local.rules.clear(), local.taken_out.clear();
  std::erase_if(local.entries, [&](const Entry& e) { return !std::isfinite(changes[static_cast<size_t>(e.row)]); });
  for (Entry& entry : local.entries) {
    entry.objective = changes[static_cast<size_t>(entry.row)];
    const bool own = std::find(student.begin(), student.end(), entry.row) != student.end();
    entry.costs.push_back(own ? 0 : double(entry.slots.size()));
  }
  local.limits.push_back({.name = "exchanged subblocks", .units = "subblocks"});
  return local;
}

int64_t slots_changed(const Problem& local, const Solution& solution) {
  double slots = 0;
  for (const int32_t e : solution.entries) slots += local.entries[static_cast<size_t>(e)].costs.back();
  return static_cast<int64_t>(slots);
}

}  // namespace

ContextResult search_in_context(const ScoreTable& table, const Problem& problem,
                                const std::vector<std::vector<int64_t>>& students, const ContextOptions& options,
                                const MeasureStudents& measure, const std::function<void(const ContextRound&)>& heard) {
  std::vector<bool> wanted(table.rows.size());
  for (const Entry& entry : problem.entries) wanted[static_cast<size_t>(entry.row)] = true;
  CHECK(!students.empty(), "no student to begin with");
  ContextResult result{.rows = {}, .before = measure(students[0], students), .predicted = kMissing, .rounds = {}};
  const auto first = std::min_element(result.before.begin(), result.before.end());
  result.rows = students[static_cast<size_t>(first - result.before.begin())];
  result.after = *first;
  for (int64_t scoring = 0; scoring < options.rounds; ++scoring) {
    const std::vector<double> changes = changes_around(table, result.rows, wanted, measure);
    Problem local = local_problem(problem, result.rows, changes);
    bool better = false;
    for (int64_t most = 2 * table.layer_count; most > 0 && !better;) {
      local.limits.back().maximum = double(most);
      const std::vector<Solution> solutions = solve(local, {.count = options.candidates}).solutions;
      if (solutions.empty() || solutions[0].objective >= 0) break;  // the student is the best of its neighbourhood
      ContextRound round{.predicted = {}, .measured = {}, .slots_changed = slots_changed(local, solutions[0])};
      std::vector<std::vector<int64_t>> candidates;
      for (const Solution& solution : solutions) {
        candidates.push_back(rows_of(local, solution));
        round.predicted.push_back(result.after + solution.objective);
      }
      round.measured = measure(result.rows, candidates);
      const auto best = std::min_element(round.measured.begin(), round.measured.end());
      const auto place = static_cast<size_t>(best - round.measured.begin());
      round.best = *best;
      round.accepted = better = round.best < result.after;
      heard(round);
      if (better) result.rows = candidates[place], result.after = *best, result.predicted = round.predicted[place];
      most = round.slots_changed / 2;
      result.rounds.push_back(std::move(round));
    }
    if (!better) break;
  }
  return result;
}

}  // namespace tangram
