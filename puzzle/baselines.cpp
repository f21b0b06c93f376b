#include "puzzle/baselines.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "kernels/random.h"

namespace tangram {
namespace {

/// One way to fill both slots of a layer.
struct Combination {
  std::vector<int32_t> entries, kinds;
  std::vector<int64_t> rows;
  double objective = 0;
  std::vector<double> costs;  // (limits)
};
using Layers = std::vector<std::vector<Combination>>;  // (layers), each best first

Combination combine(const Problem& problem, std::vector<int32_t> entries) {
  Combination c{
      .entries = std::move(entries), .kinds = {}, .rows = {}, .costs = std::vector<double>(problem.limits.size())};
  for (const int32_t i : c.entries) {
    const Entry& entry = problem.entries[static_cast<size_t>(i)];
    c.kinds.push_back(entry.kind);
    c.rows.push_back(entry.row);
    c.objective += entry.objective;
    for (size_t k = 0; k < c.costs.size(); ++k) c.costs[k] += entry.costs[k];
  }
  return c;
}

Layers combinations(const Problem& problem) {
  check_problem(problem);
  const auto L = static_cast<size_t>(problem.layer_count);
  std::vector<std::vector<int32_t>> attention(L), ffn(L);
  Layers layers(L);
  for (size_t i = 0; i < problem.entries.size(); ++i) {
    const std::vector<int32_t>& slots = problem.entries[i].slots;
    const auto layer = static_cast<size_t>(layer_of(slots.front()));
    const auto index = static_cast<int32_t>(i);
    if (layer_of(slots.back()) != layer_of(slots.front())) continue;
    if (slots.size() == 2)
      layers[layer].push_back(combine(problem, {index}));
    else
      (slots[0] % 2 == 0 ? attention : ffn)[layer].push_back(index);
  }
  for (size_t l = 0; l < L; ++l) {
    for (const int32_t a : attention[l])
      for (const int32_t f : ffn[l]) layers[l].push_back(combine(problem, {a, f}));
    std::sort(layers[l].begin(), layers[l].end(), [](const Combination& a, const Combination& b) {
      return std::tie(a.objective, a.costs, a.rows) < std::tie(b.objective, b.costs, b.rows);
    });
  }
  return layers;
}

bool has_empty_layer(const Layers& layers) {
  return std::any_of(layers.begin(), layers.end(), [](const auto& of_layer) { return of_layer.empty(); });
}

// `chosen` has one combination a layer.
std::optional<Solution> checked(const Problem& problem, const std::vector<const Combination*>& chosen) {
  std::vector<int32_t> entries;
  for (const Combination* c : chosen) entries.insert(entries.end(), c->entries.begin(), c->entries.end());
  Solution solution = evaluate(problem, entries);
  if (!keeps_limits(problem, solution)) return std::nullopt;
  return solution;
}

SolveResult result_of(const std::optional<Solution>& solution) {
  if (!solution) return {SolveStatus::not_found, {}, {}};
  return {SolveStatus::feasible, {*solution}, {}};
}

double mean_objective(const std::vector<Combination>& of_layer) {
  double sum = 0;
  for (const Combination& c : of_layer) sum += c.objective;
  return sum / static_cast<double>(of_layer.size());
}

// How far beyond its allowance the combination is under its worst limit, in shares; 0 if it fits.
double excess(const Combination& c, const std::vector<double>& allowed, const std::vector<double>& share) {
  double worst = 0;
  for (size_t k = 0; k < allowed.size(); ++k) {
    const double size = share[k] != 0 ? std::abs(share[k]) : 1, over = (c.costs[k] - allowed[k]) / size;
    if (over > 1e-12) worst = std::max(worst, over);  // what is left over was added up with rounding
  }
  return worst;
}

/// Random numbers of one student, one after the other.
struct Draws {
  uint64_t seed, stream, next = 0;
  size_t below(size_t n) { return static_cast<size_t>(random_below(n, seed, stream, next++)); }
};

bool fits(const Problem& problem, const std::vector<double>& totals) {
  for (size_t k = 0; k < totals.size(); ++k)
    if (!keeps(problem.limits[k], totals[k])) return false;
  return true;
}

std::vector<double> sum(std::vector<double> a, const std::vector<double>& b, double sign = 1) {
  for (size_t k = 0; k < a.size(); ++k) a[k] += sign * b[k];
  return a;
}

std::vector<double> cheapest(const std::vector<Combination>& of_layer) {
  std::vector<double> least = of_layer[0].costs;
  for (const Combination& c : of_layer)
    for (size_t k = 0; k < least.size(); ++k) least[k] = std::min(least[k], c.costs[k]);
  return least;
}

bool costs_more(const Combination& a, const Combination& b) {
  for (size_t k = 0; k < a.costs.size(); ++k)
    if (a.costs[k] < b.costs[k]) return false;
  return a.costs != b.costs;
}

std::vector<size_t> shuffled(size_t n, Draws& draws) {
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[draws.below(i)]);
  return order;
}

std::optional<Solution> try_random(const Problem& problem, const Layers& layers, Draws& draws) {
  const std::vector<size_t> order = shuffled(layers.size(), draws);
  std::vector<double> totals;  // of the layers that have drawn, and of the cheapest completion
  for (const LinearLimit& limit : problem.limits) totals.push_back(limit.fixed);
  for (const auto& of_layer : layers) totals = sum(totals, cheapest(of_layer));

  std::vector<const Combination*> chosen(layers.size());
  const auto draw = [&](size_t layer, const std::vector<double>& now, auto&& allowed) {
    std::vector<const Combination*> open;
    for (const Combination& c : layers[layer])
      if (allowed(c) && fits(problem, sum(sum(totals, now, -1), c.costs))) open.push_back(&c);
    if (open.empty()) return false;
    chosen[layer] = open[draws.below(open.size())];
    totals = sum(sum(totals, now, -1), chosen[layer]->costs);
    return true;
  };
  for (const size_t layer : order)
    if (!draw(layer, cheapest(layers[layer]), [](const Combination&) { return true; })) return std::nullopt;
  for (bool changed = true; changed;) {
    changed = false;
    for (const size_t layer : order) {
      const Combination& now = *chosen[layer];
      changed |= draw(layer, now.costs, [&](const Combination& c) { return costs_more(c, now); });
    }
  }
  return checked(problem, chosen);
}

}  // namespace

SolveResult greedy(const Problem& problem) {
  const Layers layers = combinations(problem);
  if (has_empty_layer(layers)) return result_of(std::nullopt);
  std::vector<size_t> order(layers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return mean_objective(layers[a]) < mean_objective(layers[b]); });
  std::vector<double> share, allowed(problem.limits.size(), 0);
  for (const LinearLimit& limit : problem.limits)
    share.push_back((limit.maximum - limit.fixed) / static_cast<double>(problem.layer_count));

  std::vector<const Combination*> chosen(layers.size());
  for (const size_t layer : order) {
    allowed = sum(allowed, share);
    double least_excess = std::numeric_limits<double>::infinity();
    for (const Combination& c : layers[layer])  // the best come first, so the first that fits is taken
      if (const double e = excess(c, allowed, share); e < least_excess) chosen[layer] = &c, least_excess = e;
    allowed = sum(allowed, chosen[layer]->costs, -1);
  }
  return result_of(checked(problem, chosen));
}

SolveResult uniform(const Problem& problem) {
  const Layers layers = combinations(problem);
  std::optional<Solution> best;
  for (const Combination& candidate : layers[0]) {
    std::vector<const Combination*> chosen;
    for (const auto& of_layer : layers) {
      const auto same = std::find_if(of_layer.begin(), of_layer.end(),
                                     [&](const Combination& c) { return c.kinds == candidate.kinds; });
      if (same == of_layer.end()) break;
      chosen.push_back(&*same);
    }
    if (chosen.size() < layers.size()) continue;
    const std::optional<Solution> solution = checked(problem, chosen);
    if (solution && (!best || solution->objective < best->objective)) best = solution;
  }
  return result_of(best);
}

SolveResult random_feasible(const Problem& problem, uint64_t seed, uint64_t index) {
  const Layers layers = combinations(problem);
  if (has_empty_layer(layers)) return result_of(std::nullopt);
  Draws draws{.seed = seed, .stream = index};
  for (int attempt = 0; attempt < 1000; ++attempt)
    if (const auto solution = try_random(problem, layers, draws)) return result_of(solution);
  return result_of(std::nullopt);
}

SolveResult largest_parameter(const Problem& problem, const SolverOptions& options) {
  Problem by_parameters = problem;
  for (Entry& entry : by_parameters.entries) entry.objective = -entry.parameters;
  SolveResult result = solve(by_parameters, options);
  for (Solution& solution : result.solutions) solution = evaluate(problem, solution.entries);
  if (result.status == SolveStatus::optimal) result.status = SolveStatus::feasible;
  return result;
}

}  // namespace tangram
