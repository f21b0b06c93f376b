#pragma once
#include <array>
#include <cmath>
#include <random>

#include "puzzle/problem.h"

namespace tangram {

constexpr int kLargeLayers = 80, kLargeAttention = 6, kLargeFfn = 9;

enum class Family : uint8_t {
  random,      ///< objectives and costs even in [0, 1), independent
  correlated,  ///< sensitivity over three orders of magnitude between layers, costs within 5 % of linear in width
};

struct LargeShape {
  Family family = Family::random;
  bool pairs = true;   ///< 54 pairs a layer; else 6 attention and 9 ffn entries
  bool spans = false;  ///< 6 more entries over every two layers that follow each other
};

/// 80 layers and 3 limits, which lie between what the cheapest students cost (by `tightness`: 0) and the dearest (1).
inline Problem large_problem(const LargeShape& shape, uint32_t seed, double tightness) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  const auto around = [&](double x) { return x * (0.95 + 0.1 * uniform(random)); };
  Problem problem{.layer_count = kLargeLayers, .entries = {}, .limits = {}};
  std::array<double, 3> least{}, most{};
  const auto add = [&](std::vector<int32_t> slots, int32_t kind, double keep, double sensitivity) {
    Entry entry{.row = int64_t(problem.entries.size()), .kind = kind, .slots = std::move(slots)};
    const double width = double(entry.slots.size()) / 2;
    entry.parameters = width * keep;
    entry.objective = shape.family == Family::random
                          ? width * uniform(random)
                          : width * sensitivity * std::pow(1 - keep, 1.5) * (0.9 + 0.2 * uniform(random));
    for (int k = 0; k < 3; ++k)
      entry.costs.push_back(width * (shape.family == Family::random ? uniform(random) : 0.02 + around(keep)));
    problem.entries.push_back(std::move(entry));
  };
  for (int32_t l = 0; l < kLargeLayers; ++l) {
    const double sensitivity = std::pow(10, 3 * uniform(random) - 2);
    const size_t first = problem.entries.size();
    if (shape.pairs)
      for (int a = 0; a < kLargeAttention * kLargeFfn; ++a)
        add({2 * l, 2 * l + 1}, a, a / double(kLargeAttention * kLargeFfn - 1), sensitivity);
    for (int a = 0; a < kLargeAttention && !shape.pairs; ++a)
      add({2 * l}, 100 + a, a / double(kLargeAttention - 1), 0.3 * sensitivity);
    for (int f = 0; f < kLargeFfn && !shape.pairs; ++f)
      add({2 * l + 1}, 200 + f, f / double(kLargeFfn - 1), sensitivity);
    for (const int32_t subblock : {0, 1})
      for (size_t k = 0; k < 3; ++k) {
        double low = 1e9, high = 0;
        for (size_t e = first; e < problem.entries.size(); ++e)
          if (problem.entries[e].slots[0] == 2 * l + subblock)
            low = std::min(low, problem.entries[e].costs[k]), high = std::max(high, problem.entries[e].costs[k]);
        if (high > 0) least[k] += low, most[k] += high;
      }
    for (int s = 0; shape.spans && s < 6 && l + 1 < kLargeLayers; ++s)
      add({2 * l, 2 * l + 1, 2 * l + 2, 2 * l + 3}, 300 + s, 0.5 * uniform(random), sensitivity);
  }
  for (size_t k = 0; k < 3; ++k)
    problem.limits.push_back({"limit " + std::to_string(k), "units", least[k] + tightness * (most[k] - least[k]), 0});
  return problem;
}

/// Scores and costs as those of Llama 3.1 70B in 8 bits: 6 attention and 9 ffn variants a layer, weights and the KV
/// cache of 64 sequences of 4096 tokens in bytes, and seconds of a decode step and of a prefill, from bytes and
/// operations at an H100's rates. Scores fall with cost and are convex in it, but for noise that makes some cheaper
/// variants better; three layers in 80 are 100 to 1000 times as sensitive as the typical one.
/// `budget` is the part of the teacher's memory and decode time that is allowed; prefill may take a tenth more.
inline Problem llama_70b_problem(uint32_t seed, double budget) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::normal_distribution<double> normal;
  constexpr double kHidden = 8192, kIntermediate = 28672, kTokens = 64 * 4096.0, kBytes = 3.35e12 * 0.6,
                   kOps = 1.98e15 * 0.5;
  constexpr std::array<double, 4> kHeads{8, 4, 2, 1};
  constexpr std::array<double, 7> kRatios{1, 0.87, 0.75, 0.5, 0.25, 0.2, 0.1};
  Problem problem{.layer_count = kLargeLayers, .entries = {}, .limits = {}};
  std::array<double, 3> teacher{};
  const auto add = [&](int32_t slot, int32_t kind, double parameters, double cache, double damage) {
    const double attention = cache > 0 ? 2 * 64 * 4096.0 * 4096 * kHidden : 0;
    Entry entry{
        .row = int64_t(problem.entries.size()),
        .kind = kind,
        .slots = {slot},
        .objective = damage,
        .parameters = parameters,
        .costs = {parameters + cache, (parameters + cache) / kBytes, (2 * parameters * kTokens + attention) / kOps},
        .variants = {kind}};
    if (kind % 100 == 0)
      for (size_t k = 0; k < 3; ++k) teacher[k] += entry.costs[k];
    problem.entries.push_back(std::move(entry));
  };
  for (int32_t l = 0; l < kLargeLayers; ++l) {
    const bool sensitive = l == 0 || l == 1 || l == kLargeLayers - 1;
    const double scale = sensitive ? std::pow(10, -1 + uniform(random)) : 1e-3 * std::exp(0.8 * normal(random));
    const double of_attention = scale * std::exp(0.7 * normal(random) - 1);
    const auto noisy = [&](double damage, double size) {
      return damage * std::exp(0.15 * normal(random)) + 0.01 * size * normal(random);
    };
    for (size_t a = 0; a < kHeads.size(); ++a) {
      const double kv = kHeads[a] * 128;
      const double lost = 1 - kHeads[a] / 8;
      add(2 * l, int32_t(a), 2 * kHidden * kHidden + 2 * kHidden * kv, kTokens * 2 * kv,
          a == 0 ? 0 : noisy(0.15 * of_attention * std::pow(lost, 1.5), of_attention));
    }
    add(2 * l, 4, kHidden * kHidden, 0, noisy(0.6 * of_attention, of_attention));
    add(2 * l, 5, 0, 0, noisy(of_attention, of_attention));
    for (size_t f = 0; f < kRatios.size(); ++f)
      add(2 * l + 1, 100 + int32_t(f), 3 * kHidden * kIntermediate * kRatios[f], 0,
          f == 0 ? 0 : noisy(scale * std::pow(1 - kRatios[f], 2), scale));
    add(2 * l + 1, 107, kHidden * kHidden, 0, noisy(1.1 * scale, scale));
    add(2 * l + 1, 108, 0, 0, noisy(1.6 * scale, scale));
  }
  const double outside = 2 * 128256 * kHidden;
  const std::array<double, 3> fixed{outside, outside / 2 / kBytes, outside / kOps * 64};
  const std::array<const char*, 3> names{"memory", "decode step", "prefill"}, units{"bytes", "s", "s"};
  for (size_t k = 0; k < 3; ++k)
    problem.limits.push_back(
        {names[k], units[k], (k == 2 ? std::min(1.0, budget + 0.1) : budget) * (teacher[k] + fixed[k]), fixed[k]});
  return problem;
}

/// The same choices scored by language-model loss in place of the distance to the teacher's outputs: it sees the same
/// damage less reliably, by a factor of half to twice either way.
inline Problem scored_by_loss(Problem problem, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  for (Entry& entry : problem.entries) entry.objective *= std::exp(0.5 * normal(random));
  return problem;
}

}  // namespace tangram
