#pragma once
#include "puzzle/problem.h"

namespace tangram {

/// Fills what a result says of an infeasible problem: what each limit could be met at, by any student and beside all
/// else that is asked; how many variants would do, and which rule could go; a set of limits and rules that exclude each
/// other and of which none can be spared, found by leaving out one after the other; and the student that exceeds the
/// limits least. Each is proven, or said not to be.
void analyse_conflicts(SolveResult& result, const Problem& problem, const SolverOptions& options);

}  // namespace tangram
