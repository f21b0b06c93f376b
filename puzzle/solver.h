#pragma once
#include "puzzle/problem.h"

namespace tangram {

/// Solves a problem exactly: a 0-1 program for CBC with one row a slot and one a limit, and no optimality gap.
///
/// Further solutions come from rows that let each share at most layer_count - d layers with every solution before it,
/// d = max(1, ceil(min_difference * layer_count)). What CBC returns is added up anew; were it beyond a limit by CBC's
/// tolerance (1e-9 of the dearest entry), that combination is excluded and the search goes on, so that limits hold to
/// the last digit. Objectives closer than about 1e-9 of a typical entry's count as equal.
///
/// The same problem gives the same solutions, whatever the order of its entries: they are sorted first, and CBC runs on
/// one thread from a fixed seed. Only running out of time depends on the machine. Nothing is printed. Infeasible is a
/// status, with the smallest total of each limit, alone and beside the others. Throws Error (bad_input) for a problem
/// or options that are malformed, and Error if CBC fails.
SolveResult solve(const Problem& problem, const SolverOptions& options = {});

}  // namespace tangram
