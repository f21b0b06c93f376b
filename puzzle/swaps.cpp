#include "puzzle/swaps.h"

#include <algorithm>
#include <cmath>

namespace tangram {
namespace {

/// Another arc in the place of the path's arc number `position`.
struct Swap {
  size_t position;
  int32_t arc;
  double objective;           // change
  std::vector<double> costs;  // (rows)  changes
};

class Swapper {
 public:
  Swapper(const Network& network, const Path& path, std::span<const double> multipliers, size_t arcs_at_most)
      : network_(network), path_(path) {
    std::vector<double> weights, through;
    weigh(weights, network, multipliers);
    weights_through(through, network, weights);
    for (size_t a = 0; a < through.size(); ++a) candidates_.push_back(static_cast<int32_t>(a));
    if (candidates_.size() > arcs_at_most) {
      std::nth_element(candidates_.begin(), candidates_.begin() + std::ptrdiff_t(arcs_at_most), candidates_.end(),
                       [&](int32_t a, int32_t b) {
                         const double ta = through[static_cast<size_t>(a)], tb = through[static_cast<size_t>(b)];
                         return ta != tb ? ta < tb : a < b;
                       });
      candidates_.resize(arcs_at_most);
    }
    weights_ = std::move(weights);
    scale_.assign(network.row_count(), 0);
    for (size_t k = 0; k < scale_.size(); ++k)
      for (const double c : network.costs[k]) scale_[k] = std::max(scale_[k], std::abs(c));
    for (double& s : scale_) s = s > 0 ? s : 1;
  }

  std::optional<Path> run() {
    for (size_t tries = 0; excess({}) > 0; ++tries)
      if (tries > 200 || !repair()) return std::nullopt;
    for (int tries = 0; tries < 100 && improve(); ++tries) {
    }
    return path_;
  }

 private:
  std::vector<Swap> swaps() const {
    std::vector<int32_t> position(static_cast<size_t>(network_.layers), -1);
    for (size_t i = 0; i < path_.arcs.size(); ++i)
      position[static_cast<size_t>(network_.from[static_cast<size_t>(path_.arcs[i])])] = static_cast<int32_t>(i);
    std::vector<Swap> found;
    for (const int32_t candidate : candidates_) {
      const auto a = static_cast<size_t>(candidate);
      const int32_t at = position[static_cast<size_t>(network_.from[a])];
      if (at < 0) continue;
      const auto now = static_cast<size_t>(path_.arcs[static_cast<size_t>(at)]);
      if (network_.to[now] != network_.to[a] || now == a) continue;
      Swap swap{static_cast<size_t>(at), candidate, network_.objective[a] - network_.objective[now], {}};
      for (const auto& cost : network_.costs) swap.costs.push_back(cost[a] - cost[now]);
      found.push_back(std::move(swap));
    }
    return found;
  }

  // How far beyond the rows the path is after a change of its costs.
  double excess(const std::vector<double>& change) const {
    double sum = 0;
    for (size_t k = 0; k < scale_.size(); ++k)
      sum += std::max(0.0, (path_.costs[k] + (change.empty() ? 0 : change[k]) - network_.capacity[k]) / scale_[k]);
    return sum;
  }

  void apply(const Swap& swap) {
    std::vector<int32_t> arcs = path_.arcs;
    arcs[swap.position] = swap.arc;
    path_ = path_of(network_, std::move(arcs));
  }

  // The swap that removes most of the excess for its weight.
  bool repair() {
    const double now = excess({});
    std::optional<Swap> best;
    double most = 0;
    for (const Swap& swap : swaps()) {
      const double less = now - excess(swap.costs);
      const double dearer =
          weights_[static_cast<size_t>(swap.arc)] - weights_[static_cast<size_t>(path_.arcs[swap.position])];
      const double ratio = less / (std::max(dearer, 0.0) + 1e-12);
      if (less > 1e-15 * now && ratio > most) most = ratio, best = swap;
    }
    if (best) apply(*best);
    return best.has_value();
  }

  bool fits(const Swap& a, const Swap* b) const {
    for (size_t k = 0; k < scale_.size(); ++k)
      if (path_.costs[k] + a.costs[k] + (b ? b->costs[k] : 0) > network_.capacity[k]) return false;
    return true;
  }

  bool improve() {
    std::vector<Swap> all = swaps();
    std::stable_sort(all.begin(), all.end(), [](const Swap& a, const Swap& b) { return a.objective < b.objective; });
    double best = -1e-13 * std::abs(path_.objective);
    const Swap *first = nullptr, *second = nullptr;
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i].objective < best && fits(all[i], nullptr)) best = all[i].objective, first = &all[i], second = nullptr;
      for (size_t j = i + 1; j < all.size(); ++j) {
        const double change = all[i].objective + all[j].objective;
        if (change >= best) break;
        if (all[i].position != all[j].position && fits(all[i], &all[j]))
          best = change, first = &all[i], second = &all[j];
      }
    }
    if (!first) return false;
    const Swap one = *first;
    if (second) {
      const Swap two = *second;
      apply(two);
    }
    apply(one);
    return true;
  }

  const Network& network_;
  Path path_;
  std::vector<int32_t> candidates_;
  std::vector<double> weights_, scale_;
};

}  // namespace

std::optional<Path> improve_by_swaps(const Network& network, const Path& path, std::span<const double> multipliers,
                                     size_t arcs_at_most) {
  return Swapper(network, path, multipliers, arcs_at_most).run();
}

}  // namespace tangram
