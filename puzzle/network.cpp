#include "puzzle/network.h"

#include <algorithm>
#include <map>

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool is_no_worse(const Network& n, size_t a, size_t b) {
  if (n.objective[a] > n.objective[b]) return false;
  return std::all_of(n.costs.begin(), n.costs.end(), [&](const auto& cost) { return cost[a] <= cost[b]; });
}

}  // namespace

void weigh(std::vector<double>& weights, const Network& network, std::span<const double> multipliers) {
  weights = network.objective;
  for (size_t k = 0; k < multipliers.size(); ++k) {
    const double multiplier = multipliers[k];
    if (multiplier == 0) continue;
    const double* cost = network.costs[k].data();
    double* weight = weights.data();
    for (size_t a = 0; a < weights.size(); ++a) weight[a] += multiplier * cost[a];
  }
}

double lightest_path(std::vector<int32_t>& arcs, const Network& network, std::span<const double> weights) {
  std::vector<double> distance(static_cast<size_t>(network.layers) + 1, kInfinity);
  std::vector<int32_t> by(distance.size(), -1);
  distance[0] = 0;
  for (size_t a = 0; a < weights.size(); ++a) {
    const double d = distance[static_cast<size_t>(network.from[a])] + weights[a];
    const auto to = static_cast<size_t>(network.to[a]);
    if (d < distance[to]) distance[to] = d, by[to] = static_cast<int32_t>(a);
  }
  arcs.clear();
  if (distance.back() == kInfinity) return kInfinity;
  for (int32_t node = network.layers; node > 0; node = network.from[static_cast<size_t>(arcs.back())])
    arcs.push_back(by[static_cast<size_t>(node)]);
  std::reverse(arcs.begin(), arcs.end());
  return distance.back();
}

void weights_through(std::vector<double>& through, const Network& network, std::span<const double> weights) {
  const auto nodes = static_cast<size_t>(network.layers) + 1;
  std::vector<double> ahead(nodes, kInfinity), behind(nodes, kInfinity);
  ahead.back() = 0, behind[0] = 0;
  const size_t count = weights.size();
  for (size_t a = count; a-- > 0;) {
    double& best = ahead[static_cast<size_t>(network.from[a])];
    best = std::min(best, weights[a] + ahead[static_cast<size_t>(network.to[a])]);
  }
  through.resize(count);
  for (size_t a = 0; a < count; ++a) {
    const double d = behind[static_cast<size_t>(network.from[a])] + weights[a];
    double& best = behind[static_cast<size_t>(network.to[a])];
    best = std::min(best, d);
    through[a] = d + ahead[static_cast<size_t>(network.to[a])];
  }
}

Path path_of(const Network& network, std::vector<int32_t> arcs) {
  Path path{.arcs = std::move(arcs), .objective = 0, .costs = std::vector<double>(network.row_count())};
  for (const int32_t a : path.arcs) {
    path.objective += network.objective[static_cast<size_t>(a)];
    for (size_t k = 0; k < path.costs.size(); ++k) path.costs[k] += network.costs[k][static_cast<size_t>(a)];
  }
  return path;
}

Network restricted(const Network& network, const std::function<bool(size_t)>& kept) {
  std::vector<size_t> arcs;
  for (size_t a = 0; a < network.arc_count(); ++a)
    if (kept(a)) arcs.push_back(a);
  Network r{.layers = network.layers,
            .from = {},
            .to = {},
            .id = {},
            .objective = {},
            .costs = {},
            .capacity = network.capacity,
            .variants = {},
            .most_variants = network.most_variants};
  const auto gather = [&](auto& to, const auto& from) {
    to.reserve(arcs.size());
    for (const size_t a : arcs) to.push_back(from[a]);
  };
  gather(r.from, network.from), gather(r.to, network.to), gather(r.id, network.id);
  gather(r.objective, network.objective);
  if (!network.variants.empty()) gather(r.variants, network.variants);
  r.costs.resize(network.row_count());
  for (size_t k = 0; k < r.costs.size(); ++k) gather(r.costs[k], network.costs[k]);
  return r;
}

Network without_dominated(const Network& network) {
  std::map<std::tuple<int32_t, int32_t, std::vector<int32_t>>, std::vector<size_t>> alike;
  for (size_t a = 0; a < network.arc_count(); ++a)
    alike[{network.from[a], network.to[a], network.variants.empty() ? std::vector<int32_t>() : network.variants[a]}]
        .push_back(a);
  std::vector<bool> kept(network.arc_count());
  for (auto& [key, arcs] : alike) {
    // In ascending order, only arcs before can be better than one.
    std::sort(arcs.begin(), arcs.end(), [&](size_t a, size_t b) {
      if (network.objective[a] != network.objective[b]) return network.objective[a] < network.objective[b];
      for (const auto& cost : network.costs)
        if (cost[a] != cost[b]) return cost[a] < cost[b];
      return a < b;
    });
    std::vector<size_t> best;
    for (const size_t b : arcs)
      if (std::none_of(best.begin(), best.end(), [&](size_t a) { return is_no_worse(network, a, b); }))
        best.push_back(b), kept[b] = true;
  }
  return restricted(network, [&](size_t a) { return kept[a]; });
}

}  // namespace tangram
