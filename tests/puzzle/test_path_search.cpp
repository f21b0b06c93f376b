#include "puzzle/path_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "puzzle/labels.h"
#include "puzzle/swaps.h"

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Six layers of four arcs, and arcs over two layers; whole costs, so that sums coincide, in half of the networks.
Network random_network(uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  Network n{.layers = 6, .from = {}, .to = {}, .id = {}, .objective = {}, .costs = {}, .capacity = {}, .variants = {}};
  n.costs.resize(1 + seed % 3);
  const auto add = [&](int32_t from, int32_t to) {
    n.id.push_back(int32_t(n.id.size())), n.from.push_back(from), n.to.push_back(to);
    n.objective.push_back((to - from) * uniform(random) - 0.2);
    for (auto& cost : n.costs) {
      cost.push_back((to - from) * uniform(random));
      if (seed % 2) cost.back() = std::floor(4 * cost.back());
    }
  };
  for (int32_t l = 0; l < n.layers; ++l) {
    for (int a = 0; a < 4; ++a) add(l, l + 1);
    if (l + 2 <= n.layers) add(l, l + 2);
  }
  for (size_t k = 0; k < n.costs.size(); ++k) n.capacity.push_back((seed % 2 ? 9 : 2.5) + 0.3 * double(seed % 7));
  return n;
}

Path best_by_enumeration(const Network& n) {
  Path best;
  best.objective = kInfinity;
  std::vector<int32_t> arcs;
  const std::function<void(int32_t)> walk = [&](int32_t node) {
    if (node == n.layers) {
      const Path path = path_of(n, arcs);
      for (size_t k = 0; k < path.costs.size(); ++k)
        if (path.costs[k] > n.capacity[k] + 1e-12) return;
      if (path.objective < best.objective) best = path;
      return;
    }
    for (size_t a = 0; a < n.arc_count(); ++a)
      if (n.from[a] == node) {
        arcs.push_back(int32_t(a));
        walk(n.to[a]);
        arcs.pop_back();
      }
  };
  walk(0);
  return best;
}

TEST(PathSearchTest, LabelsAgreeWithEnumeration) {
  for (uint32_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    const Network n = random_network(seed);
    const Path truth = best_by_enumeration(n);
    double best = kInfinity;
    std::vector<std::vector<double>> multipliers;
    for (const double u : {0.0, 0.05, 0.5}) multipliers.push_back(std::vector<double>(n.row_count(), u));
    multipliers.push_back(maximise_bound(n, {}, {}, {}, [](const Path&) {}).multipliers);
    // Barely above the best, so that nothing may be cut off that is not.
    const double below = truth.objective == kInfinity ? 100 : truth.objective + 1e-9;
    const bool complete = search_by_labels(n, {.multipliers = multipliers, .below = below, .labels_at_most = 100'000},
                                           [&](const std::vector<int32_t>& arcs) {
                                             const Path path = path_of(n, arcs);
                                             for (size_t k = 0; k < path.costs.size(); ++k)
                                               if (path.costs[k] > n.capacity[k] + 1e-12) return below;
                                             best = std::min(best, path.objective);
                                             return best;
                                           });
    EXPECT_TRUE(complete);
    if (truth.objective == kInfinity)
      EXPECT_EQ(best, kInfinity);
    else
      EXPECT_NEAR(best, truth.objective, 1e-12);
  }
}

TEST(PathSearchTest, LabelsGiveUpWhereTheyAreTooMany) {
  const Network n = random_network(4);
  const LabelOptions options{.multipliers = {std::vector<double>(n.row_count())}, .below = 100, .labels_at_most = 20};
  EXPECT_FALSE(search_by_labels(n, options, [](const std::vector<int32_t>&) { return 100.0; }));
}

// The bound is that of the linear relaxation: no higher than the best path, no lower than what any multipliers give,
// and its combination keeps the rows and has the bound as its objective.
TEST(PathSearchTest, TheBoundIsThatOfItsCombinationOfPaths) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (uint32_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    const Network n = random_network(seed);
    const Path truth = best_by_enumeration(n);
    if (truth.objective == kInfinity) continue;
    const Dual dual = maximise_bound(n, {}, {}, {}, [](const Path&) {});
    EXPECT_LE(dual.bound, truth.objective + 1e-12);
    double objective = 0, sum = 0;
    std::vector<double> costs(n.row_count());
    for (size_t p = 0; p < dual.paths.size(); ++p) {
      sum += dual.parts[p], objective += dual.parts[p] * dual.paths[p].objective;
      for (size_t k = 0; k < costs.size(); ++k) costs[k] += dual.parts[p] * dual.paths[p].costs[k];
    }
    EXPECT_NEAR(sum, 1, 1e-9);
    EXPECT_NEAR(objective, dual.bound, 1e-8);
    for (size_t k = 0; k < costs.size(); ++k) EXPECT_LE(costs[k], n.capacity[k] + 1e-8);
    for (int i = 0; i < 50; ++i) {
      std::vector<double> u, weights;
      for (size_t k = 0; k < n.row_count(); ++k) u.push_back(2 * uniform(random));
      weigh(weights, n, u);
      std::vector<int32_t> arcs;
      const double lightest = lightest_path(arcs, n, weights);
      EXPECT_LE(bound_of(n, u, lightest, path_of(n, arcs)), dual.bound + 1e-8);
    }
  }
}

bool keeps_rows(const Network& n, const Path& path) {
  for (size_t k = 0; k < path.costs.size(); ++k)
    if (path.costs[k] > n.capacity[k] + 1e-12) return false;
  return true;
}

// From the lightest path, which keeps no row: the result does, and by trying them all no one or two exchanges improve
// it.
TEST(PathSearchTest, SwapsKeepTheRowsAndLeaveNothingToTwoMore) {
  int found = 0;
  for (uint32_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    const Network n = random_network(seed);
    const std::vector<double> u(n.row_count(), 0.3);
    std::vector<int32_t> arcs;
    lightest_path(arcs, n, n.objective);
    const std::optional<Path> better = improve_by_swaps(n, path_of(n, arcs), u, n.arc_count());
    if (!better) continue;
    ++found;
    EXPECT_TRUE(keeps_rows(n, *better));
    const auto exchanged = [&](std::vector<int32_t> of, const std::function<void(const std::vector<int32_t>&)>& visit) {
      for (size_t i = 0; i < of.size(); ++i)
        for (size_t a = 0; a < n.arc_count(); ++a) {
          const auto now = size_t(of[i]);
          if (n.from[a] != n.from[now] || n.to[a] != n.to[now]) continue;
          of[i] = int32_t(a);
          visit(of);
          of[i] = int32_t(now);
        }
    };
    exchanged(better->arcs, [&](const std::vector<int32_t>& one) {
      exchanged(one, [&](const std::vector<int32_t>& two) {
        const Path path = path_of(n, two);
        EXPECT_FALSE(keeps_rows(n, path) && path.objective < better->objective - 1e-9);
      });
    });
  }
  EXPECT_GT(found, 50);
}

TEST(PathSearchTest, WeightsThroughArcsAreThoseOfTheLightestPathsThere) {
  const Network n = random_network(3);
  std::vector<double> through;
  weights_through(through, n, n.objective);
  for (size_t a = 0; a < n.arc_count(); ++a) {
    Network part = restricted(n, [&](size_t b) {  // all that cross it are gone
      return b == a || n.to[b] <= n.from[a] || n.from[b] >= n.to[a];
    });
    std::vector<int32_t> arcs;
    EXPECT_NEAR(through[a], lightest_path(arcs, part, part.objective), 1e-12);
  }
}

}  // namespace
}  // namespace tangram
