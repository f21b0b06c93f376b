#include "puzzle/frontier.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "puzzle/one_search.h"
#include "puzzle/solver.h"

namespace tangram {
namespace {

class Tracer {
 public:
  Tracer(std::span<const Problem> problems, const FrontierOptions& options)
      : problems_(problems),
        options_(options),
        k_(options.limit),
        each_(options.solver),
        unlimited_(problems.begin(), problems.end()),
        known_(problems.size()) {
    each_.count = 1, each_.known.clear(), each_.prices.clear();
    for (Problem& problem : unlimited_) {
      problem.limits.erase(problem.limits.begin() + std::ptrdiff_t(k_));
      for (Entry& entry : problem.entries) entry.costs.erase(entry.costs.begin() + std::ptrdiff_t(k_));
    }
  }

  Frontier run() {
    const std::optional<FrontierPoint> least = best_for_price(0, 1), best = best_for_price(1, 0);
    if (!best || !least) return std::move(frontier_);
    frontier_.smallest = total(*least), frontier_.largest = std::max(total(*best), total(*least));
    const double step =
        (frontier_.largest - frontier_.smallest) / static_cast<double>(std::max<int64_t>(1, options_.points - 1));
    const FrontierPoint* looser = &*best;
    for (int64_t i = options_.points; i-- > 0;) {
      const double maximum = i == options_.points - 1 ? frontier_.largest : frontier_.smallest + double(i) * step;
      if (const std::optional<FrontierPoint> found = best_under(maximum, *looser)) frontier_.points.push_back(*found);
      if (!frontier_.points.empty()) looser = &frontier_.points.back();
    }
    std::reverse(frontier_.points.begin(), frontier_.points.end());
    for (int64_t i = 0; i < options_.refine && refine_once(); ++i) {
    }
    if (options_.supported) add_supported();
    return std::move(frontier_);
  }

 private:
  /// What is known of a problem under the loosest limit that was solved last: it holds for all tighter ones.
  struct Known {
    double bound = -std::numeric_limits<double>::infinity();  ///< no student is better
    std::optional<Solution> best = {};
    std::vector<double> prices = {};
  };

  // Of the moved limit, as FrontierPoint counts.
  double unit(size_t problem) const {
    const LinearLimit& limit = problems_[problem].limits[k_];
    return limit.tokens > 0 ? limit.tokens : 1;
  }
  double total(const FrontierPoint& point) const { return point.solution.totals[k_] / unit(point.problem); }
  LinearLimit moved_limit(size_t problem, double maximum) const {
    LinearLimit limit = problems_[problem].limits[k_];
    limit.maximum = maximum * unit(problem);
    return limit;
  }

  // Without the moved limit, over all problems: the least of objective_part * objective + cost_part * total.
  std::optional<FrontierPoint> best_for_price(double objective_part, double cost_part) {
    std::optional<FrontierPoint> best;
    const auto rank = [&](const FrontierPoint& point) {
      return std::pair(objective_part * point.solution.objective + cost_part * total(point), total(point));
    };
    for (size_t p = 0; p < problems_.size(); ++p) {
      std::optional<Solution> found = best_for_price(p, objective_part, cost_part);
      if (!found) continue;
      const FrontierPoint point{.problem = p, .solution = std::move(*found)};
      if (!best || rank(point) < rank(*best)) best = point;
    }
    if (best && cost_part == 0)
      for (const Known& known : known_) best->solution.bound = std::min(best->solution.bound, known.bound);
    return best;
  }

  std::optional<Solution> best_for_price(size_t p, double objective_part, double cost_part) {
    const Problem& problem = problems_[p];
    Problem& unlimited = unlimited_[p];
    for (size_t i = 0; i < unlimited.entries.size(); ++i)
      unlimited.entries[i].objective =
          objective_part * problem.entries[i].objective + cost_part / unit(p) * problem.entries[i].costs[k_];
    SolverOptions options = each_;
    options.prices.clear(), options.known.clear();
    const OneResult found = search_one({.problem = unlimited}, options);
    const bool proven = found.status == SolveStatus::optimal, none = found.status == SolveStatus::infeasible;
    if (!proven && !none) frontier_.is_proven = false;
    if (cost_part == 0 && none) known_[p].bound = std::numeric_limits<double>::infinity();
    if (!proven && found.status != SolveStatus::feasible) return std::nullopt;
    Solution solution = evaluate(problem, found.solution.entries);
    if (proven && cost_part == 0) solution.bound = solution.objective;
    if (cost_part == 0) known_[p] = {.bound = solution.bound, .best = solution};
    return solution;
  }

  // The best student of all problems under `maximum`, given the point of a looser limit.
  std::optional<FrontierPoint> best_under(double maximum, const FrontierPoint& looser) {
    FrontierPoint best{.maximum = maximum, .problem = looser.problem, .solution = looser.solution};
    if (keeps(moved_limit(looser.problem, maximum), looser.solution.totals[k_])) return best;
    std::vector<size_t> order(problems_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return known_[a].bound < known_[b].bound; });
    bool is_found = false;
    const auto is_better = [&](const FrontierPoint& point) {
      return std::pair(point.solution.objective, total(point)) < std::pair(best.solution.objective, total(best));
    };
    for (const size_t p : order) {
      const double enough = is_found ? best.solution.objective : std::numeric_limits<double>::infinity();
      const std::optional<Solution> found = best_under(p, maximum, enough);
      if (!found) continue;
      FrontierPoint point{.maximum = maximum, .problem = p, .solution = *found};
      if (!is_found || is_better(point)) best = std::move(point);
      is_found = true;
    }
    if (is_found)
      for (const Known& known : known_) best.solution.bound = std::min(best.solution.bound, known.bound);
    frontier_.is_proven = frontier_.is_proven && is_found && is_proven(best.solution);
    return is_found ? std::optional(std::move(best)) : std::nullopt;
  }

  // The best student of one problem; none where it has none, or none that is better than `enough`.
  std::optional<Solution> best_under(size_t p, double maximum, double enough) {
    Known& known = known_[p];
    Problem moved = problems_[p];
    moved.limits[k_] = moved_limit(p, maximum);
    const bool keeps_it = known.best && keeps(moved.limits[k_], known.best->totals[k_]);
    if (keeps_it && is_proven(*known.best)) return known.best;
    if (known.bound >= enough) return std::nullopt;
    each_.known.clear();
    if (keeps_it) each_.known = {known.best->entries};  // of a search that was given up
    if (known.best) known.prices = known.best->prices;
    known.best.reset();
    each_.prices = known.prices;
    for (const FrontierPoint& point : frontier_.points)  // one that keeps it, and is the best of those so far
      if (point.problem == p && total(point) <= maximum) each_.known = {point.solution.entries};
    const OneResult found = search_one({.problem = moved, .hopeless = enough}, each_);
    if (found.status == SolveStatus::optimal || found.status == SolveStatus::feasible) known.best = found.solution;
    known.bound =
        std::max(known.bound, found.status == SolveStatus::infeasible ? std::numeric_limits<double>::infinity()
                              : known.best                            ? known.best->bound
                                                                      : found.bound);
    return known.best;
  }

  // The rows that fill a point's slots.
  std::vector<int64_t> row_of_slot(const FrontierPoint& point) const {
    const Problem& problem = problems_[point.problem];
    std::vector<int64_t> rows(static_cast<size_t>(2 * problem.layer_count));
    for (const int32_t i : point.solution.entries) {
      const Entry& entry = problem.entries[static_cast<size_t>(i)];
      for (const int32_t slot : entry.slots) rows[static_cast<size_t>(slot)] = entry.row;
    }
    return rows;
  }

  int64_t layers_between(const FrontierPoint& a, const FrontierPoint& b) const {
    const std::vector<int64_t> of_a = row_of_slot(a), of_b = row_of_slot(b);
    int64_t layers = 0;
    for (size_t slot = 0; slot < of_a.size(); slot += 2)
      layers += of_a[slot] != of_b[slot] || of_a[slot + 1] != of_b[slot + 1];
    return layers;
  }

  bool refine_once() {
    std::vector<FrontierPoint>& points = frontier_.points;
    size_t widest = 0;
    int64_t most = 0;
    double way = 0;
    for (size_t i = 0; i + 1 < points.size(); ++i) {
      const int64_t layers = layers_between(points[i], points[i + 1]);
      const double gap = points[i + 1].maximum - points[i].maximum;
      if (gap > 1e-6 * (frontier_.largest - frontier_.smallest) && (layers > most || (layers == most && gap > way)))
        most = layers, way = gap, widest = i;
    }
    if (most == 0) return false;
    const FrontierPoint& looser = points[widest + 1];
    known_.assign(problems_.size(), {.bound = looser.solution.bound});
    known_[looser.problem].best = looser.solution;
    const std::optional<FrontierPoint> found = best_under(points[widest].maximum + way / 2, looser);
    if (!found) return false;
    points.insert(points.begin() + std::ptrdiff_t(widest) + 1, *found);
    return true;
  }

  // The lower convex hull of what is known is refined at the price of each of its edges. What is found may show that a
  // neighbour is not on the hull after all.
  void add_supported() {
    std::vector<FrontierPoint> hull = lower_hull();
    for (size_t i = 0; i + 1 < hull.size();) {
      std::optional<FrontierPoint> found = below_edge(hull[i], hull[i + 1]);
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
    // The best student there is may have an equal of a smaller total.
    const size_t count = hull.size();
    if (count > 1 && hull[count - 1].solution.objective >= hull[count - 2].solution.objective) hull.pop_back();
    for (FrontierPoint& point : hull) merge(std::move(point));
  }

  // The student furthest below the line between two, by the price at which they are equal.
  std::optional<FrontierPoint> below_edge(const FrontierPoint& a, const FrontierPoint& b) {
    const double rise = a.solution.objective - b.solution.objective, width = total(b) - total(a);
    const auto value = [&](const FrontierPoint& s) { return width * s.solution.objective + rise * total(s); };
    const double size = std::abs(rise * total(a)) + std::abs(width * a.solution.objective);
    std::optional<FrontierPoint> found = best_for_price(width, rise);
    const bool is_between = found && total(*found) > total(a) && total(*found) < total(b);
    if (!is_between || value(*found) >= value(a) - 1e-11 * size) return std::nullopt;
    return found;
  }

  bool is_corner(const FrontierPoint& a, const FrontierPoint& b, const FrontierPoint& c) const {
    const double rise = c.solution.objective - a.solution.objective;
    return (total(b) - total(a)) * rise - (b.solution.objective - a.solution.objective) * (total(c) - total(a)) > 0;
  }

  std::vector<FrontierPoint> lower_hull() {
    std::vector<FrontierPoint> hull;
    for (const FrontierPoint& c : frontier_.points) {
      if (!hull.empty() && total(c) <= total(hull.back())) continue;
      while (hull.size() >= 2 && !is_corner(hull[hull.size() - 2], hull.back(), c)) hull.pop_back();
      hull.push_back(c);
    }
    return hull;
  }

  // A supported point is the best under its own total.
  void merge(FrontierPoint supported) {
    std::vector<FrontierPoint>& points = frontier_.points;
    bool is_known = false;
    for (FrontierPoint& point : points)
      if (total(point) == total(supported) && point.solution.objective <= supported.solution.objective)
        point.is_supported = is_known = true;
    if (is_known) return;
    if (frontier_.is_proven) supported.solution.bound = supported.solution.objective;
    supported.maximum = total(supported), supported.is_supported = true;
    const auto place = std::upper_bound(points.begin(), points.end(), supported,
                                        [](const auto& a, const auto& b) { return a.maximum < b.maximum; });
    points.insert(place, std::move(supported));
  }

  const std::span<const Problem> problems_;
  const FrontierOptions& options_;
  const size_t k_;
  SolverOptions each_;
  std::vector<Problem> unlimited_;  // by the moved limit
  std::vector<Known> known_;        // (problems)
  Frontier frontier_;
};

}  // namespace

Frontier trace_frontier(std::span<const Problem> problems, const FrontierOptions& options) {
  for (const Problem& problem : problems) {
    check_problem(problem);
    if (problem.limits.size() != problems[0].limits.size() || problem.layer_count != problems[0].layer_count)
      throw bad_input("a frontier over problems of {} and {} limits, {} and {} layers; they must be equal",
                      problems[0].limits.size(), problem.limits.size(), problems[0].layer_count, problem.layer_count);
    if (options.limit >= problem.limits.size())
      throw bad_input("a frontier over limit {} of {}", options.limit, problem.limits.size());
  }
  if (options.points < 1 || options.refine < 0)
    throw bad_input("a frontier of {} points, {} of them refined; must be at least 1 and 0", options.points,
                    options.refine);
  return Tracer(problems, options).run();
}

Frontier trace_frontier(const Problem& problem, const FrontierOptions& options) {
  return trace_frontier(std::span(&problem, 1), options);
}

}  // namespace tangram
