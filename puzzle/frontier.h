#pragma once
#include <span>

#include "puzzle/problem.h"

namespace tangram {

struct FrontierOptions {
  size_t limit = 0;        ///< the one that is moved; the others stay
  int64_t points = 100;    ///< values of it, spaced evenly over the attainable range, both ends included
  bool supported = false;  ///< also every supported point
  int64_t refine = 0;      ///< further points, each halving the way between the neighbours that differ in most layers
  SolverOptions solver = {};  ///< for each point; `count`, `known` and `prices` are unused
};

/// The student for one value of the moved limit. Values are as the problem has them; of a least throughput they are
/// seconds for each token, 1 / throughput, in which problems of different batch sizes compare.
struct FrontierPoint {
  double maximum = 0;         ///< of the moved limit
  size_t problem = 0;         ///< the one that the student solves, where there are several
  Solution solution;          ///< the best student under it; proven if bound equals objective
  bool is_supported = false;  ///< proven to be the best for some price of the moved limit: on the lower convex hull
};

struct Frontier {
  std::vector<FrontierPoint> points;  ///< ascending by maximum
  double smallest = 0, largest = 0;   ///< attainable under the other limits, and that of the best student there is
  bool is_proven = true;              ///< both ends, all points and, if asked for, that no supported point is missing
};

/// A value of the moved limit as users think of it; see `shown`.
inline double shown_on_frontier(const LinearLimit& limit, double value) { return limit.tokens > 0 ? 1 / value : value; }

/// The best student for every value of one limit, within the others. Points are solved from the loosest limit to the
/// tightest. Where the student of a looser limit keeps the next one too, it is the best there as well, without a
/// search; else it is where the next search begins from, with its prices.
///
/// Supported points are those that are best for some price, objective + price * total. They are found between each two
/// neighbours of the hull at the price that makes them equal (Aneja & Nair 1979), until nothing is below the line.
/// Problems that are infeasible whatever the moved limit have no points. Throws Error (bad_input) as `solve` does, and
/// for a limit that the problem does not have.
Frontier trace_frontier(const Problem& problem, const FrontierOptions& options);

/// The same over several problems with the same limits, such as one for each batch size: every point is the best that
/// any of them allows; of equally good students, the one with the smallest total. Where what a problem reached under a
/// looser limit is no better than another one's student, it is not searched again.
Frontier trace_frontier(std::span<const Problem> problems, const FrontierOptions& options);

}  // namespace tangram
