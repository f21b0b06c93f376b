#pragma once
#include "puzzle/problem.h"

namespace tangram {

/// Solves a problem exactly. A student is a shortest path over the layers with side constraints (puzzle/network.h):
///
///   1. ways to fill a layer that another makes needless are left out,
///   2. multipliers of the limits give a lower bound, the linear relaxation's (puzzle/lagrangian.h), and its paths,
///      improved by exchanging one and two choices, give students,
///   3. choices that no better student can make are left out, and branch and bound decides the rest
///      (puzzle/path_search.h).
///
/// Further solutions share at most layer_count - d layers with every one before, d = max(1, ceil(min_difference *
/// layer_count)). What is found is added up anew, so limits hold to the last digit. Objectives that differ by less than
/// 1e-12 of the sum of a student's objectives' sizes count as equal. With `plain`, and for entries that fill half a
/// layer beside a whole one, CBC solves the same as a 0-1 program; objectives within 1e-9 of a typical entry's are then
/// equal.
///
/// The same problem gives the same solutions, whatever the order of its entries: they are sorted first, and all runs on
/// one thread. Only running out of time depends on the machine. Nothing is printed. Infeasible is a status that comes
/// with an analysis of which limits conflict (puzzle/conflicts.h). Throws Error (bad_input) for a problem or options
/// that are malformed, and Error if CBC fails.
SolveResult solve(const Problem& problem, const SolverOptions& options = {});

}  // namespace tangram
