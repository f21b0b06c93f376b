#include "puzzle/frontier.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "puzzle/one_search.h"
#include "puzzle/solver.h"

namespace tangram {
namespace {

class Tracer {
 public:
  Tracer(const Problem& problem, const FrontierOptions& options)
      : problem_(problem), options_(options), k_(options.limit), each_(options.solver), unlimited_(problem) {
    each_.count = 1, each_.known.clear(), each_.prices.clear();
    unlimited_.limits.erase(unlimited_.limits.begin() + std::ptrdiff_t(k_));
    for (Entry& entry : unlimited_.entries) entry.costs.erase(entry.costs.begin() + std::ptrdiff_t(k_));
  }

  Frontier run() {
    const std::optional<Solution> best = best_for_price(1, 0), least = best_for_price(0, 1);
    if (!best || !least) return std::move(frontier_);
    frontier_.smallest = total(*least), frontier_.largest = std::max(total(*best), total(*least));
    const double step =
        (frontier_.largest - frontier_.smallest) / static_cast<double>(std::max<int64_t>(1, options_.points - 1));
    const Solution* looser = &*best;
    for (int64_t i = options_.points; i-- > 0;) {
      const double maximum = i == options_.points - 1 ? frontier_.largest : frontier_.smallest + double(i) * step;
      add(maximum, looser);
      if (!frontier_.points.empty()) looser = &frontier_.points.back().solution;
    }
    std::reverse(frontier_.points.begin(), frontier_.points.end());
    for (int64_t i = 0; i < options_.refine && refine_once(); ++i) {
    }
    if (options_.supported) add_supported();
    return std::move(frontier_);
  }

 private:
  double total(const Solution& solution) const { return solution.totals[k_]; }

  // Without the moved limit: the least of objective_part * objective + cost_part * total.
  std::optional<Solution> best_for_price(double objective_part, double cost_part) {
    for (size_t i = 0; i < unlimited_.entries.size(); ++i)
      unlimited_.entries[i].objective =
          objective_part * problem_.entries[i].objective + cost_part * problem_.entries[i].costs[k_];
    SolverOptions options = each_;
    options.prices.clear(), options.known.clear();
    const OneResult found = search_one({.problem = unlimited_}, options);
    if (found.status != SolveStatus::optimal && found.status != SolveStatus::infeasible) frontier_.is_proven = false;
    if (found.status != SolveStatus::optimal && found.status != SolveStatus::feasible) return std::nullopt;
    const bool proven = found.status == SolveStatus::optimal;
    Solution solution = evaluate(problem_, found.solution.entries);
    if (proven && cost_part == 0) solution.bound = solution.objective;
    return solution;
  }

  // The best student under `maximum`, given that of a looser limit.
  std::optional<Solution> best_under(double maximum, const Solution& looser) {
    Problem moved = problem_;
    moved.limits[k_].maximum = maximum;
    if (keeps(moved.limits[k_], total(looser))) return looser;
    each_.prices = looser.prices;
    each_.known.clear();
    for (const FrontierPoint& point : frontier_.points)  // one that keeps it, and is the best of those so far
      if (total(point.solution) <= maximum) each_.known = {point.solution.entries};
    const OneResult found = search_one({.problem = moved}, each_);
    frontier_.is_proven = frontier_.is_proven && found.status == SolveStatus::optimal;
    if (found.status != SolveStatus::optimal && found.status != SolveStatus::feasible) return std::nullopt;
    return found.solution;
  }

  void add(double maximum, const Solution* looser) {
    if (const std::optional<Solution> found = best_under(maximum, *looser))
      frontier_.points.push_back({.maximum = maximum, .solution = *found});
  }

  bool refine_once() {
    std::vector<FrontierPoint>& points = frontier_.points;
    size_t widest = 0;
    int64_t most = 0;
    double way = 0;
    for (size_t i = 0; i + 1 < points.size(); ++i) {
      const int64_t layers = layers_that_differ(problem_, points[i].solution, points[i + 1].solution);
      const double gap = points[i + 1].maximum - points[i].maximum;
      if (gap > 1e-6 * (frontier_.largest - frontier_.smallest) && (layers > most || (layers == most && gap > way)))
        most = layers, way = gap, widest = i;
    }
    if (most == 0) return false;
    const double maximum = points[widest].maximum + way / 2;
    const std::optional<Solution> found = best_under(maximum, points[widest + 1].solution);
    if (!found) return false;
    points.insert(points.begin() + std::ptrdiff_t(widest) + 1, {.maximum = maximum, .solution = *found});
    return true;
  }

  // The lower convex hull of what is known is refined at the price of each of its edges. What is found may show that a
  // neighbour is not on the hull after all.
  void add_supported() {
    std::vector<Solution> hull = lower_hull();
    for (size_t i = 0; i + 1 < hull.size();) {
      std::optional<Solution> found = below_edge(hull[i], hull[i + 1]);
      if (!found) {
        ++i;
        continue;
      }
      size_t p = i + 1;
      hull.insert(hull.begin() + std::ptrdiff_t(p), *found);
      for (; p >= 2 && !is_corner(hull[p - 2], hull[p - 1], hull[p]); --p)
        hull.erase(hull.begin() + std::ptrdiff_t(p) - 1);
      while (p + 2 < hull.size() && !is_corner(hull[p], hull[p + 1], hull[p + 2]))
        hull.erase(hull.begin() + std::ptrdiff_t(p) + 1);
      i = p - 1;
    }
    for (Solution& solution : hull) merge(std::move(solution));
  }

  // The student furthest below the line between two, by the price at which they are equal.
  std::optional<Solution> below_edge(const Solution& a, const Solution& b) {
    const double rise = a.objective - b.objective, width = total(b) - total(a);
    const auto value = [&](const Solution& s) { return width * s.objective + rise * total(s); };
    const double size = std::abs(rise * total(a)) + std::abs(width * a.objective);
    std::optional<Solution> found = best_for_price(width, rise);
    const bool is_between = found && total(*found) > total(a) && total(*found) < total(b);
    if (!is_between || value(*found) >= value(a) - 1e-11 * size) return std::nullopt;
    return found;
  }

  bool is_corner(const Solution& a, const Solution& b, const Solution& c) const {
    return (total(b) - total(a)) * (c.objective - a.objective) - (b.objective - a.objective) * (total(c) - total(a)) >
           0;
  }

  std::vector<Solution> lower_hull() {
    std::vector<Solution> hull;
    for (const FrontierPoint& point : frontier_.points) {
      const Solution& c = point.solution;
      if (!hull.empty() && total(c) <= total(hull.back())) continue;
      while (hull.size() >= 2 && !is_corner(hull[hull.size() - 2], hull.back(), c)) hull.pop_back();
      hull.push_back(c);
    }
    return hull;
  }

  // A supported point is the best under its own total.
  void merge(Solution solution) {
    std::vector<FrontierPoint>& points = frontier_.points;
    bool is_known = false;
    for (FrontierPoint& point : points)
      if (total(point.solution) == total(solution) && point.solution.objective <= solution.objective)
        point.is_supported = is_known = true;
    if (is_known) return;
    if (frontier_.is_proven) solution.bound = solution.objective;
    FrontierPoint point{.maximum = total(solution), .solution = std::move(solution), .is_supported = true};
    const auto place = std::upper_bound(points.begin(), points.end(), point,
                                        [](const auto& a, const auto& b) { return a.maximum < b.maximum; });
    points.insert(place, std::move(point));
  }

  const Problem& problem_;
  const FrontierOptions& options_;
  const size_t k_;
  SolverOptions each_;
  Problem unlimited_;  // by the moved limit
  Frontier frontier_;
};

}  // namespace

Frontier trace_frontier(const Problem& problem, const FrontierOptions& options) {
  check_problem(problem);
  if (options.limit >= problem.limits.size())
    throw bad_input("a frontier over limit {} of {}", options.limit, problem.limits.size());
  if (options.points < 1 || options.refine < 0)
    throw bad_input("a frontier of {} points, {} of them refined; must be at least 1 and 0", options.points,
                    options.refine);
  return Tracer(problem, options).run();
}

}  // namespace tangram
