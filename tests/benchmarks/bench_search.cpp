// The search at the size of Llama 3.1 70B: 80 layers of 54 choices under three limits. Each table says how long the
// exact search takes, beside CBC alone on the same 0-1 program and, where TANGRAM_PEERS names a Python with PuLP,
// beside that.

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "puzzle/baselines.h"
#include "puzzle/frontier.h"
#include "puzzle/resample.h"
#include "puzzle/solver.h"
#include "tests/benchmarks/harness.h"
#include "tests/puzzle/large_problem.h"

namespace tangram {
namespace {

template <class F>
double seconds_of(const F& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void write_problem(const Problem& problem, const std::filesystem::path& path) {
  std::ofstream file(path);
  file << fmt::format("{{\"layer_count\": {}, \"maxima\": [", problem.layer_count);
  for (size_t k = 0; k < problem.limits.size(); ++k)
    file << fmt::format("{}{}", k > 0 ? ", " : "", problem.limits[k].maximum - problem.limits[k].fixed);
  file << "], \"entries\": [";
  for (size_t i = 0; i < problem.entries.size(); ++i) {
    const Entry& entry = problem.entries[i];
    file << fmt::format("{}{{\"objective\": {}, \"slots\": [", i > 0 ? ", " : "", entry.objective);
    for (size_t s = 0; s < entry.slots.size(); ++s) file << fmt::format("{}{}", s > 0 ? ", " : "", entry.slots[s]);
    file << "], \"costs\": [";
    for (size_t k = 0; k < entry.costs.size(); ++k) file << fmt::format("{}{}", k > 0 ? ", " : "", entry.costs[k]);
    file << "]}";
  }
  file << "]}\n";
  CHECK(file.good(), "{} cannot be written", path.string());
}

struct Case {
  std::string name;
  LargeShape shape;
  double tightest, loosest;  ///< limits, as large_problem counts: all can be met, and all bind
};

const std::vector<Case> kCases = {
    {"random, 54 pairs a layer", {Family::random, true, false}, 0.2, 0.45},
    {"random, 6 + 9 subblocks a layer", {Family::random, false, false}, 0.35, 0.48},
    {"correlated, 54 pairs a layer", {Family::correlated, true, false}, 0.15, 0.65},
    {"correlated, 6 + 9 subblocks a layer", {Family::correlated, false, false}, 0.15, 0.65},
    {"random, pairs and two-layer spans", {Family::random, true, true}, 0.2, 0.45},
    {"correlated, pairs and two-layer spans", {Family::correlated, true, true}, 0.15, 0.65},
};

class SearchBench {
 public:
  explicit SearchBench(Bench& bench)
      : bench_(bench), instances_(bench.options.tiny ? 2 : 50), compared_(bench.options.tiny ? 1 : 5) {}

  void run() {
    if (bench_.wants("search")) families();
    if (bench_.wants("frontier")) frontiers();
    if (bench_.wants("diverse")) diverse();
    if (bench_.wants("baselines")) baselines();
  }

 private:
  Problem instance(const Case& c, int i) const {
    return large_problem(c.shape, uint32_t(1000 + i), c.tightest + (c.loosest - c.tightest) * i / instances_);
  }

  void families() {
    fmt::print("| {:<38} | {:>9} | {:>9} | {:>9} | {:>9} | {} |\n", "search, 3 limits, proven", "median", "worst",
               "proven", "CBC alone", "times the peers, on some of these");
    fmt::print("| --- | --- | --- | --- | --- | --- |\n");
    for (const Case& c : kCases) family(c);
    fmt::print("\n");
  }

  void family(const Case& c) {
    std::vector<double> seconds;
    std::vector<Problem> compared;
    std::vector<double> ours;
    int proven = 0;
    for (int i = 0; i < instances_; ++i) {
      const Problem problem = instance(c, i);
      SolveResult result;
      seconds.push_back(seconds_of([&] { result = solve(problem); }));
      proven += result.status == SolveStatus::optimal;
      if (i % (instances_ / compared_) == 0) compared.push_back(problem), ours.push_back(seconds.back());
    }
    std::vector<double> alone;
    const double each = bench_.options.tiny ? 0.2 : bench_.options.peer_seconds / 10.0;
    for (const Problem& problem : compared)
      if (each > 0) alone.push_back(seconds_of([&] { solve(problem, {.seconds_at_most = each, .plain = true}); }));
    fmt::print("| {:<38} | {:>7.3f} s | {:>7.3f} s | {:>3} of {:<2} | {:>7.1f} s | {} |\n", c.name, median(seconds),
               *std::max_element(seconds.begin(), seconds.end()), proven, instances_, median(alone),
               peers(compared, ours, alone));
    std::fflush(stdout);
  }

  // Times of other programs for the same problems: the median of the ratios.
  std::string peers(const std::vector<Problem>& problems, const std::vector<double>& ours,
                    const std::vector<double>& alone) {
    const auto ratio = [&](const std::vector<double>& theirs) {
      std::vector<double> ratios;
      for (size_t i = 0; i < theirs.size(); ++i) ratios.push_back(theirs[i] / ours[i]);
      return median(ratios);
    };
    std::string text = alone.empty() ? "" : fmt::format("{:.0f} x CBC alone", ratio(alone));
    const std::filesystem::path folder = std::filesystem::temp_directory_path() / fmt::format("search-{}", getpid());
    std::filesystem::create_directories(folder);
    std::vector<std::string> works;
    for (size_t i = 0; i < problems.size(); ++i) {
      write_problem(problems[i], folder / fmt::format("{}.json", i));
      works.push_back(fmt::format("search:{}", (folder / fmt::format("{}.json", i)).string()));
    }
    const auto times = time_peers(works, {Device::cpu, DType::f32, 1, bench_.options.peer_seconds, "peer_pulp.py"});
    std::map<std::string, std::vector<double>> of_peer;
    for (const std::string& work : works)
      if (const auto found = times.find(work); found != times.end())
        for (const PeerTime& time : found->second) of_peer[time.name].push_back(time.seconds);
    for (const auto& [name, seconds] : of_peer)  // a peer that ran out of time did the first ones
      text += fmt::format("; {:.0f} x {} ({:.1f} s, {} of {})", ratio(seconds), name, median(seconds), seconds.size(),
                          problems.size());
    std::filesystem::remove_all(folder);
    return text;
  }

  std::vector<std::pair<std::string, Problem>> examples() const {
    return {{"as Llama 3.1 70B", llama_70b_problem(1, 0.6)},
            {"random pairs", large_problem({Family::random, true, false}, 1, 0.5)},
            {"correlated pairs", large_problem({Family::correlated, true, false}, 1, 0.5)}};
  }

  void frontiers() {
    const int64_t points = bench_.options.tiny ? 3 : 100;
    fmt::print("| {:<24} | {:>10} | {:>7} | {:>10} | {:>22} | {:>22} |\n", "frontier", "seconds", "proven", "supported",
               "seconds, all supported", "seconds, 100 resamples");
    fmt::print("| --- | --- | --- | --- | --- | --- |\n");
    for (const auto& [name, problem] : examples()) {
      Frontier even, all;
      const double of_even = seconds_of([&] { even = trace_frontier(problem, {.points = points, .solver = {}}); });
      const double of_all =
          seconds_of([&] { all = trace_frontier(problem, {.points = points, .supported = true, .solver = {}}); });
      const auto supported = std::count_if(all.points.begin(), all.points.end(),
                                           [](const FrontierPoint& point) { return point.is_supported; });
      std::vector<double> errors;
      for (const Entry& entry : problem.entries) errors.push_back(0.02 * std::abs(entry.objective));
      const Solution best = solve(problem).solutions.at(0);
      const double of_samples = seconds_of([&] { resample(problem, best, errors, {.samples = points}); });
      fmt::print("| {:<24} | {:>10.2f} | {:>7} | {:>10} | {:>22.2f} | {:>22.2f} |\n", name, of_even,
                 even.is_proven && all.is_proven ? "all" : "not all", supported, of_all, of_samples);
    }
    fmt::print("\n");
  }

  void diverse() {
    fmt::print("| {:<24} | {:>9} | {:>8} | {:>7} | {:>12} | {:>18} |\n", "16 diverse, 10 % apart", "solutions",
               "seconds", "proven", "largest gap", "last beside first");
    fmt::print("| --- | --- | --- | --- | --- | --- |\n");
    for (const auto& [name, problem] : examples()) {
      SolveResult result;
      const double seconds =
          seconds_of([&] { result = solve(problem, {.count = bench_.options.tiny ? 2 : 16, .min_difference = 0.1}); });
      double gap = 0;
      int proven = 0;
      for (const Solution& s : result.solutions) {
        gap = std::max(gap, (s.objective - s.bound) / std::abs(s.objective));
        proven += is_proven(s);
      }
      fmt::print("| {:<24} | {:>9} | {:>8.1f} | {:>7} | {:>10.3f} % | {:>16.3f} % |\n", name, result.solutions.size(),
                 seconds, proven, 100 * gap,
                 100 * (result.solutions.back().objective / result.solutions.front().objective - 1));
    }
    fmt::print("\n");
  }

  void baselines() {
    fmt::print("| {:<15} | {:>9} | {:>7} | {:>14} | {:>9} | {:>9} | {:>17} | {:>17} |\n", "part of teacher", "exact",
               "proven", "scored by loss", "greedy", "uniform", "largest parameter", "best random of 20");
    fmt::print("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (const double budget : {0.8, 0.7, 0.6, 0.5, 0.4}) {
      const Problem problem = llama_70b_problem(1, budget);
      const auto objective = [&](const SolveResult& result) {
        return result.solutions.empty() ? NAN : evaluate(problem, result.solutions[0].entries).objective;
      };
      const SolveResult exact = solve(problem);
      double random = INFINITY;
      for (uint64_t i = 0; i < 20; ++i) random = std::fmin(random, objective(random_feasible(problem, 1, i)));
      fmt::print("| {:>13.0f} % | {:>9.4f} | {:>7} | {:>14.4f} | {:>9.4f} | {:>9.4f} | {:>17.4f} | {:>17.4f} |\n",
                 100 * budget, objective(exact), exact.status == SolveStatus::optimal ? "yes" : "no",
                 objective(solve(scored_by_loss(problem, 1))), objective(greedy(problem)), objective(uniform(problem)),
                 objective(largest_parameter(problem, {.gap = 1e-4})), random);
    }
    fmt::print("\n");
  }

  Bench& bench_;
  const int instances_, compared_;
};

}  // namespace

void bench_search(Bench& bench) { SearchBench(bench).run(); }

}  // namespace tangram
