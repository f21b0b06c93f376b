#pragma once
#include <array>
#include <span>
#include <string>
#include <vector>

#include "puzzle/problem.h"
#include "puzzle/score_table.h"

namespace tangram {

/// What a user can limit. With B sequences of a scenario together, each with its output tokens, and T the time for all
/// of them from the first input to the last output token:
enum class Quantity : uint8_t {
  memory,                 ///< bytes of one device at most: weights (embedding and head too), KV cache of all B
                          ///< sequences, workspace
  parameters,             ///< at most
  throughput,             ///< at least so many output tokens a second and device: B * output_tokens / (T * devices)
  latency,                ///< seconds at most: T
  time_to_first_token,    ///< seconds at most until the last of B prompts that come together has its first token
  time_per_output_token,  ///< seconds at most of a decode step, on average: between two tokens of a sequence
  kv_cache,               ///< bytes of one device at most
};
inline constexpr std::array kQuantities = {
    Quantity::memory,  Quantity::parameters,          Quantity::throughput,
    Quantity::latency, Quantity::time_to_first_token, Quantity::time_per_output_token,
    Quantity::kv_cache};

/// One limit as a user sets it.
struct Constraint {
  Quantity quantity = Quantity::memory;
  std::string scenario =
      {};  ///< or a group of them; empty: each one of the table (but for parameters, which have none)
  double bound = 0;
  bool relative = false;  ///< `bound` counts the teacher's own figure: 0.6 is 60 %
  bool moves = false;     ///< along a frontier: it is a limit of its own, whatever else limits the same
};

/// The figure of a whole model made of these rows: costs of the rows and of what is outside the blocks, times the
/// factor by which whole models differ from such sums, in the unit of the quantity. Memory counts the workspace of the
/// largest of these rows. NaN if any part is missing. `scenario` is unused for parameters.
double figure(const ScoreTable& table, std::span<const int64_t> rows, Quantity quantity, size_t scenario);

/// Relative error bar of that figure: 0 for what is counted, NaN where nothing is known of it.
double figure_error(const ScoreTable& table, std::span<const int64_t> rows, Quantity quantity, size_t scenario);

/// The slots that a row fills, ascending.
std::vector<int32_t> slots_of(const TableRow& row);

/// The rows of the teacher's own subblocks. Throws Error (bad_input) naming the layer if one is missing.
std::vector<int64_t> teacher_rows(const ScoreTable& table);

/// Where scenarios differ in their concurrency only (`chat@32`, `chat@64`: the group `chat`), the batch size is free: a
/// student is searched for with each, and the best is kept. Here is every way to choose: indices of the scenarios that
/// then count, one of each group that some constraint limits, or those of it that constraints name. One empty list
/// where nothing needs a scenario. Throws Error (bad_input) for an unknown scenario or more than 1000 ways.
std::vector<std::vector<size_t>> batch_choices(const ScoreTable& table, std::span<const Constraint> constraints);

struct TableProblem {
  Problem problem;                ///< an entry's row is its index in the table
  std::vector<int64_t> left_out;  ///< rows whose score or some limited cost is missing or not finite
};

/// The search for the best sum of a metric's changes from the teacher, under all constraints at once, in one of the
/// batch_choices.
///
///   objective = value - teacher's value, its sign turned where higher is better; 0 for the teacher's own rows
///
/// so that plain variants, pairs and spans add up in the same way. Throughput bounds become bounds on T, which is
/// linear. Of several limits on the same quantity in the same scenario the tightest is taken. Workspace is a maximum
/// over the rows and not a sum of them, so a limit on memory counts the most that any row needs: it holds whichever are
/// chosen, and a student may take less than the limit's figure says. A bound that counts the teacher's figure means the
/// teacher in the same scenario. Throws Error (bad_input) for an unknown metric or scenario, a bound that is not
/// positive, and a table that lacks what a constraint needs: the costs outside the blocks, or the teacher's.
TableProblem make_problem(const ScoreTable& table, const std::string& metric, std::span<const Constraint> constraints,
                          std::span<const size_t> scenarios);
/// The same where no batch size is free; refused where one is.
TableProblem make_problem(const ScoreTable& table, const std::string& metric, std::span<const Constraint> constraints);

/// The metric that the additive model predicts for a student: the teacher's value and the objective's change of it.
double predicted(const TableMetric& metric, const Solution& solution);

std::string_view name_of(Quantity quantity);
std::string_view units_of(Quantity quantity);

}  // namespace tangram
