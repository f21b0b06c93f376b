#pragma once
#include "puzzle/problem.h"
#include "puzzle/solver.h"

namespace tangram {

// Simpler ways to choose a student, for comparison with the exact search. All keep every limit of the problem. The
// first three choose layer by layer among a layer's combinations: an attention entry with an ffn entry, or one entry
// that fills both slots; entries that span several layers are left aside. They return one solution as `feasible`, or
// `not_found`. Answers do not depend on the order of entries. Throws Error (bad_input) for a malformed problem.

/// The paper's greedy search (arXiv:2411.19146, section 5). Every limit gives each layer an equal share of what is left
/// after the fixed part. Layers are visited in ascending order of the mean objective of their combinations; each takes
/// the best combination that stays within its share plus what the layers before it left over, for all limits at once.
/// Where none does, it takes the one that exceeds least (the worst limit counts, as a part of the share), and later
/// layers have that much less. not_found if the sum is beyond a limit in the end.
SolveResult greedy(const Problem& problem);

/// The same combination of kinds in all layers: the feasible one with the best objective.
SolveResult uniform(const Problem& problem);

/// A random student that uses its budget up, a function of (seed, index).
///
/// Layers are visited in random order; each draws evenly among the combinations that leave enough, of every limit, for
/// the cheapest completion of the others. Then, in rounds over the layers, each draws evenly among the combinations
/// that cost at least as much under every limit, more under some, and still fit, until no layer has one. With several
/// limits the first part can run into a dead end; it is tried up to 1000 times.
SolveResult random_feasible(const Problem& problem, uint64_t seed, uint64_t index);

/// The student with the most parameters that keeps every limit, found exactly (spans too), whatever its objective.
/// Status and conflicts are those of `solve`, but `feasible` in place of `optimal`.
SolveResult largest_parameter(const Problem& problem, const SolverOptions& options = {});

}  // namespace tangram
