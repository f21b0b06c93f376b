#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "puzzle/one_search.h"
#include "puzzle/path_search.h"

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Ways to fill layers: an attention entry with an ffn entry, or one entry alone (the second is then -1).
struct Way {
  int32_t from, to;  // layers
  std::array<int32_t, 2> entries;
};

// From the first slot of a layer to the last of one.
bool fills_whole_layers(const Entry& entry) {
  const auto length = static_cast<int32_t>(entry.slots.size());
  return entry.slots.front() % 2 == 0 && length % 2 == 0 && entry.slots.back() - entry.slots.front() == length - 1;
}

std::vector<Way> ways_of(const Problem& problem) {
  const auto L = static_cast<size_t>(problem.layer_count);
  std::vector<std::vector<int32_t>> attention(L), ffn(L);
  std::vector<Way> ways;
  for (const int32_t e : sorted_entries(problem)) {
    const std::vector<int32_t>& slots = problem.entries[static_cast<size_t>(e)].slots;
    const auto first = static_cast<int32_t>(layer_of(slots.front())),
               last = static_cast<int32_t>(layer_of(slots.back()));
    if (slots.size() == 1)
      (slots[0] % 2 == 0 ? attention : ffn)[static_cast<size_t>(first)].push_back(e);
    else
      ways.push_back({first, last + 1, {e, -1}});
  }
  for (size_t l = 0; l < L; ++l)
    for (const int32_t a : attention[l])
      for (const int32_t f : ffn[l]) ways.push_back({static_cast<int32_t>(l), static_cast<int32_t>(l + 1), {a, f}});
  std::stable_sort(ways.begin(), ways.end(), [](const Way& a, const Way& b) { return a.from < b.from; });
  return ways;
}

// A power of two, so that scaling rounds nothing, that brings `size` to between 1 and 2.
double scale_to_one(double size) { return size > 0 ? std::ldexp(1, -std::ilogb(size)) : 1; }

double median_size(const std::vector<double>& values) {
  std::vector<double> sizes;
  for (const double v : values)
    if (v != 0) sizes.push_back(std::abs(v));
  if (sizes.empty()) return 0;
  std::nth_element(sizes.begin(), sizes.begin() + std::ptrdiff_t(sizes.size() / 2), sizes.end());
  return sizes[sizes.size() / 2];
}

class ByPaths {
 public:
  ByPaths(const OneSearch& search, const SolverOptions& options)
      : search_(search), problem_(search.problem), options_(options), ways_(ways_of(problem_)) {}

  OneResult run() {
    build();
    const auto L = static_cast<size_t>(problem_.layer_count);
    PathSearchOptions o{.nodes_at_most = search_.nodes_at_most, .gap = options_.gap};
    o.enough = search_.is_excess ? search_.enough : search_.enough * objective_scale_;
    o.hopeless = search_.is_excess ? search_.hopeless : search_.hopeless * objective_scale_;
    if (options_.seconds_at_most < 1e9)
      o.deadline = std::chrono::steady_clock::now() +
                   std::chrono::microseconds(static_cast<int64_t>(1e6 * options_.seconds_at_most));
    if (search_.is_excess)
      for (size_t k = 0; k < problem_.limits.size(); ++k)
        o.slack.push_back(unit_of_excess(problem_, k) * row_scale_[k]);
    o.multipliers.assign(network_.row_count(), 0);
    for (size_t k = 0; k < std::min(options_.prices.size(), row_scale_.size()); ++k)
      if (!search_.is_excess) o.multipliers[k] = options_.prices[k] * objective_scale_ / row_scale_[k];
    std::vector<std::vector<int32_t>> known;
    for (const std::vector<int32_t>& entries : options_.known)
      if (std::vector<int32_t> ids = ids_of(entries); ids.size() <= L && !ids.empty()) known.push_back(std::move(ids));
    const Judge judge = [&](const std::vector<int32_t>& ids) { return judge_path(ids); };
    return result_of(search_paths(without_dominated(network_), o, judge, known));
  }

 private:
  void build() {
    const size_t limits = search_.is_excess && problem_.limits.empty() ? 0 : problem_.limits.size();
    network_.layers = static_cast<int32_t>(problem_.layer_count);
    for (const Way& way : ways_) {
      network_.id.push_back(static_cast<int32_t>(network_.id.size()));
      network_.from.push_back(way.from), network_.to.push_back(way.to);
      network_.objective.push_back(
          search_.is_excess ? 0 : sum_over(way, [](const Entry& entry) { return entry.objective; }));
    }
    objective_scale_ = scale_to_one(median_size(network_.objective));
    for (double& objective : network_.objective) objective *= objective_scale_;
    for (size_t k = 0; k < limits; ++k) add_limit(k);
    for (const Solution& earlier : search_.differ_from) add_difference(earlier);
    if (problem_.most_variants > 0) add_variants();
  }

  template <class F>
  double sum_over(const Way& way, const F& value) const {
    double sum = 0;
    for (const int32_t e : way.entries)
      if (e >= 0) sum += value(problem_.entries[static_cast<size_t>(e)]);
    return sum;
  }

  // Rounding must not make a row stricter than the limit: the exact sums are judged in the end.
  void add_limit(size_t k) {
    const LinearLimit& limit = problem_.limits[k];
    std::vector<double> costs;
    double largest = 0;
    std::vector<double> of_layer(static_cast<size_t>(network_.layers));
    for (const Way& way : ways_) {
      costs.push_back(sum_over(way, [&](const Entry& entry) { return entry.costs[k]; }));
      largest = std::max(largest, std::abs(costs.back()));
      double& most = of_layer[static_cast<size_t>(way.from)];
      most = std::max(most, std::abs(costs.back()));
    }
    const double rounding = 1e-14 * std::accumulate(of_layer.begin(), of_layer.end(), 0.0) +
                            3e-13 * std::max(std::abs(limit.maximum), std::abs(limit.fixed));
    row_scale_.push_back(scale_to_one(largest));
    for (double& cost : costs) cost *= row_scale_[k];
    network_.costs.push_back(std::move(costs));
    network_.capacity.push_back((limit.maximum - limit.fixed + rounding) * row_scale_[k]);
  }

  // The layers that a student shares with an earlier one are a cost like any other.
  void add_difference(const Solution& earlier) {
    std::vector<int32_t> of_slot(static_cast<size_t>(2 * problem_.layer_count), -1);
    for (const int32_t e : earlier.entries)
      for (const int32_t slot : problem_.entries[static_cast<size_t>(e)].slots) of_slot[static_cast<size_t>(slot)] = e;
    std::vector<double> shared;
    for (const Way& way : ways_) {
      const auto has = [&](int32_t e) { return e == way.entries[0] || e == way.entries[1]; };
      double layers = 0;
      for (auto l = static_cast<size_t>(way.from); l < static_cast<size_t>(way.to); ++l)
        layers += has(of_slot[2 * l]) && has(of_slot[2 * l + 1]);
      shared.push_back(layers);
    }
    network_.costs.push_back(std::move(shared));
    network_.capacity.push_back(static_cast<double>(problem_.layer_count - search_.least_difference));
  }

  void add_variants() {
    std::map<int32_t, int32_t> number;  // of a variant, from 0 on
    for (const Entry& entry : problem_.entries)
      for (const int32_t v : entry.variants) number.emplace(v, 0);
    int32_t next = 0;
    for (auto& [v, n] : number) n = next++;
    if (next <= problem_.most_variants) return;
    network_.most_variants = problem_.most_variants;
    for (const Way& way : ways_) {
      std::vector<int32_t> used;
      for (const int32_t e : way.entries)
        if (e >= 0)
          for (const int32_t v : problem_.entries[static_cast<size_t>(e)].variants) used.push_back(number[v]);
      std::sort(used.begin(), used.end());
      used.erase(std::unique(used.begin(), used.end()), used.end());
      network_.variants.push_back(std::move(used));
    }
  }

  std::vector<int32_t> entries_of(const std::vector<int32_t>& ids) const {
    std::vector<int32_t> entries;
    for (const int32_t id : ids)
      for (const int32_t e : ways_[static_cast<size_t>(id)].entries)
        if (e >= 0) entries.push_back(e);
    return entries;
  }

  Judged judge_path(const std::vector<int32_t>& ids) const {
    const Solution solution = evaluate(problem_, entries_of(ids));
    if (search_.is_excess) {
      const bool few = problem_.most_variants == 0 || variant_count(problem_, solution) <= problem_.most_variants;
      return {few ? excess_of(problem_, solution) : kInfinity, 0};
    }
    if (!is_allowed(problem_, solution)) return {kInfinity, 0};
    for (const Solution& earlier : search_.differ_from)
      if (layers_that_differ(problem_, solution, earlier) < search_.least_difference) return {kInfinity, 0};
    double size = 0;
    for (const int32_t e : solution.entries) size += std::abs(problem_.entries[static_cast<size_t>(e)].objective);
    return {solution.objective * objective_scale_, size * objective_scale_};
  }

  // Of a set of entries that fills every slot once; none where it does not.
  std::vector<int32_t> ids_of(const std::vector<int32_t>& entries) const {
    std::vector<char> chosen(problem_.entries.size());
    for (const int32_t e : entries) {
      if (e < 0 || static_cast<size_t>(e) >= chosen.size()) return {};
      chosen[static_cast<size_t>(e)] = 1;
    }
    std::vector<int32_t> ids;
    int32_t layer = 0;
    for (size_t w = 0; w < ways_.size(); ++w) {
      const auto [first, second] = ways_[w].entries;
      if (ways_[w].from != layer || !chosen[static_cast<size_t>(first)] ||
          (second >= 0 && !chosen[static_cast<size_t>(second)]))
        continue;
      ids.push_back(static_cast<int32_t>(w));
      layer = ways_[w].to;
    }
    return layer == network_.layers ? ids : std::vector<int32_t>();
  }

  OneResult result_of(const PathSearchResult& found) const {
    const double scale = search_.is_excess ? 1 : objective_scale_;
    OneResult result;
    result.value = found.value / scale, result.bound = found.bound / scale;
    const bool proven = found.bound >= found.value;
    if (found.ids.empty()) {
      result.status = found.bound == kInfinity ? SolveStatus::infeasible : SolveStatus::not_found;
      return result;
    }
    result.status = proven ? SolveStatus::optimal : SolveStatus::feasible;
    result.solution = evaluate(problem_, entries_of(found.ids));
    if (!search_.is_excess) {
      result.solution.bound = proven ? result.solution.objective : result.bound;
      for (size_t k = 0; k < problem_.limits.size() && k < found.multipliers.size(); ++k)
        result.solution.prices.push_back(found.multipliers[k] * row_scale_[k] / objective_scale_);
    }
    return result;
  }

  const OneSearch& search_;
  const Problem& problem_;
  const SolverOptions& options_;
  const std::vector<Way> ways_;  // an arc's id is its index here
  Network network_;
  double objective_scale_ = 1;
  std::vector<double> row_scale_;  // (limits)
};

}  // namespace

bool fits_paths(const Problem& problem) {
  return std::all_of(problem.entries.begin(), problem.entries.end(),
                     [](const Entry& entry) { return entry.slots.size() == 1 || fills_whole_layers(entry); });
}

OneResult search_by_paths(const OneSearch& search, const SolverOptions& options) {
  return ByPaths(search, options).run();
}

}  // namespace tangram
