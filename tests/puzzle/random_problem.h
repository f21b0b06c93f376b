#pragma once
#include <cmath>
#include <functional>
#include <random>

#include "puzzle/problem.h"

namespace tangram {

/// What a random problem is like. Objectives spread over three orders of magnitude and fall with cost, as scores do.
struct ProblemShape {
  int64_t layers = 4;
  int attention = 3, ffn = 3;  ///< plain variants a layer
  int pairs = 0;               ///< a layer
  int spans = 0;               ///< over two layers, from every layer but the last
  int limits = 1;
  double tightness = 0.5;      ///< of a limit, between what the dearest student costs (1) and nothing (0)
  bool whole_numbers = false;  ///< small integers, so that many students tie
  double outliers = 0;         ///< part of the entries whose objective is a thousand times as large
  bool below_zero = false;     ///< some objectives are negative, and some costs 0
  bool opposed = false;        ///< under every other limit the cheap are dear, so that limits exclude each other
  int most_variants = 0;       ///< see Problem
};

inline Problem random_problem(const ProblemShape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  Problem problem{.layer_count = shape.layers, .entries = {}, .limits = {}, .most_variants = shape.most_variants};
  std::vector<double> sensitivity;
  for (int64_t l = 0; l < shape.layers; ++l) sensitivity.push_back(std::pow(10, 3 * uniform(random) - 2));
  std::vector<double> dearest(static_cast<size_t>(shape.limits));
  const auto add = [&](std::vector<int32_t> slots, int kind, double keep) {
    const double s = sensitivity[static_cast<size_t>(layer_of(slots[0]))];
    Entry entry{.row = static_cast<int64_t>(problem.entries.size()), .kind = kind, .slots = std::move(slots)};
    const double width = static_cast<double>(entry.slots.size());
    entry.objective = width * s * std::pow(1 - keep, 2) * (0.7 + 0.6 * uniform(random));
    entry.parameters = width * keep * 100;
    for (int k = 0; k < shape.limits; ++k) {
      const double part = shape.opposed && k % 2 ? 1 - keep : keep;
      entry.costs.push_back(width * part * (0.8 + 0.4 * uniform(random)));
    }
    if (shape.whole_numbers) {
      entry.objective = std::round(3 * entry.objective / s);
      for (double& cost : entry.costs) cost = std::round(4 * cost);
    }
    if (shape.outliers > 0 && uniform(random) < shape.outliers) entry.objective *= 1000;
    if (shape.below_zero) {
      entry.objective -= s * uniform(random);
      for (double& cost : entry.costs) cost *= uniform(random) < 0.8;
    }
    // A pair and a span use one variant of either subblock, each the one of its number.
    entry.variants = kind < 200 ? std::vector<int32_t>{kind}
                                : std::vector<int32_t>{kind % 100 % shape.attention, 100 + kind % 100 % shape.ffn};
    for (size_t k = 0; k < dearest.size(); ++k) dearest[k] += entry.costs[k] / (shape.attention + shape.ffn);
    problem.entries.push_back(std::move(entry));
  };
  for (int32_t l = 0; l < shape.layers; ++l) {
    for (int a = 0; a < shape.attention; ++a) add({2 * l}, a, double(a) / std::max(shape.attention - 1, 1));
    for (int f = 0; f < shape.ffn; ++f) add({2 * l + 1}, 100 + f, double(f) / std::max(shape.ffn - 1, 1));
    for (int p = 0; p < shape.pairs; ++p) add({2 * l, 2 * l + 1}, 200 + p, uniform(random));
    for (int n = 0; n < shape.spans && l + 1 < shape.layers; ++n)
      add({2 * l, 2 * l + 1, 2 * l + 2, 2 * l + 3}, 300 + n, 0.6 * uniform(random));
  }
  for (int k = 0; k < shape.limits; ++k) {
    const double fixed = shape.whole_numbers ? 5 : 0.37;
    // Twice the mean entry of every slot is about what the dearest student costs.
    double maximum = fixed + shape.tightness * 2 * dearest[static_cast<size_t>(k)];
    if (shape.whole_numbers) maximum = std::round(maximum);
    problem.limits.push_back({"limit " + std::to_string(k), "units", maximum, fixed});
  }
  return problem;
}

/// Calls `visit` with every set of entries that fills each slot exactly once.
inline void for_every_cover(const Problem& problem, const std::function<void(const std::vector<int32_t>&)>& visit) {
  std::vector<bool> filled(static_cast<size_t>(2 * problem.layer_count));
  std::vector<int32_t> chosen;
  const std::function<void()> fill_next = [&] {
    int32_t slot = 0;
    while (slot < 2 * problem.layer_count && filled[static_cast<size_t>(slot)]) ++slot;
    if (slot == 2 * problem.layer_count) return visit(chosen);
    for (size_t i = 0; i < problem.entries.size(); ++i) {
      const std::vector<int32_t>& slots = problem.entries[i].slots;
      if (slots[0] != slot) continue;
      bool is_free = true;
      for (const int32_t s : slots) is_free = is_free && !filled[static_cast<size_t>(s)];
      if (!is_free) continue;
      for (const int32_t s : slots) filled[static_cast<size_t>(s)] = true;
      chosen.push_back(static_cast<int32_t>(i));
      fill_next();
      chosen.pop_back();
      for (const int32_t s : slots) filled[static_cast<size_t>(s)] = false;
    }
  };
  fill_next();
}

}  // namespace tangram
