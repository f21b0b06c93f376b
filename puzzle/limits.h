#pragma once
#include <span>
#include <string>
#include <vector>

#include "puzzle/problem.h"
#include "puzzle/score_table.h"

namespace tangram {

/// What a user can limit. With B sequences of a scenario together, each with its output tokens, and T the time for all
/// of them from the first input to the last output token:
enum class Quantity : uint8_t {
  memory,      ///< bytes at most: weights (embedding and head too), KV cache of all B sequences, workspace
  parameters,  ///< at most
  throughput,  ///< at least so many output tokens a second: B * output_tokens / T
  latency,     ///< seconds at most: T
};

/// One limit as a user sets it.
struct Constraint {
  Quantity quantity = Quantity::memory;
  std::string scenario = {};  ///< empty: each scenario of the table (but for parameters, which have none)
  double bound = 0;
  bool relative = false;  ///< `bound` counts the teacher's own figure: 0.6 is 60 %
};

/// The figure of a whole model made of these rows: costs of the rows and of what is outside the blocks, in the unit of
/// the quantity. NaN if any part is missing. `scenario` is unused for parameters.
double figure(const ScoreTable& table, std::span<const int64_t> rows, Quantity quantity, size_t scenario);

/// The rows of the teacher's own subblocks. Throws Error (bad_input) naming the layer if one is missing.
std::vector<int64_t> teacher_rows(const ScoreTable& table);

struct TableProblem {
  Problem problem;                ///< an entry's row is its index in the table
  std::vector<int64_t> left_out;  ///< rows whose score or some limited cost is missing or not finite
};

/// The search for the best sum of a metric's changes from the teacher, under all constraints at once.
///
///   objective = value - teacher's value, its sign turned where higher is better; 0 for the teacher's own rows
///
/// so that plain variants, pairs and spans add up in the same way. Throughput bounds become bounds on T, which is
/// linear. Throws Error (bad_input) for an unknown metric or scenario, a bound that is not positive, and a table that
/// lacks what a constraint needs: the costs outside the blocks, or the teacher's.
TableProblem make_problem(const ScoreTable& table, const std::string& metric, std::span<const Constraint> constraints);

/// The metric that the additive model predicts for a student: the teacher's value and the objective's change of it.
double predicted(const TableMetric& metric, const Solution& solution);

std::string_view name_of(Quantity quantity);
std::string_view units_of(Quantity quantity);

}  // namespace tangram
