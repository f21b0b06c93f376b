#pragma once
#include <array>
#include <functional>
#include <span>
#include <vector>

#include "puzzle/problem.h"

namespace tangram {

/// The search as a shortest path with side constraints. Nodes 0 to layers are the borders between layers; an arc is a
/// way to fill the layers from `from` to `to - 1`: an attention entry with an ffn entry, a pair, or a span. Every
/// student is a path from node 0 to node `layers`, and exactly one of its arcs covers any given layer. A row is an
/// upper limit on the path's sum of costs.
struct Network {
  int32_t layers = 0;
  std::vector<int32_t> from, to;               // (arcs)  ascending by `from`
  std::vector<int32_t> id;                     // (arcs)  what an arc is called by whoever built the network
  std::vector<double> objective;               // (arcs)
  std::vector<std::vector<double>> costs;      // (rows, arcs)
  std::vector<double> capacity;                // (rows)
  std::vector<std::vector<int32_t>> variants;  // (arcs)  from 0 on; empty if any number may be used
  int64_t most_variants = 0;                   // on a path; 0: any number

  size_t arc_count() const { return from.size(); }
  size_t row_count() const { return capacity.size(); }
};

/// Arcs of a network, by index, in order; with their sums.
struct Path {
  std::vector<int32_t> arcs;
  double objective = 0;
  std::vector<double> costs;  // (rows)
};

/// objective + multipliers . costs of every arc.
void weigh(std::vector<double>& weights, const Network& network, std::span<const double> multipliers);

/// Weight of the lightest path, and its arcs; infinity and none if no path exists.
double lightest_path(std::vector<int32_t>& arcs, const Network& network, std::span<const double> weights);

/// The weight of the lightest path through each arc.
void weights_through(std::vector<double>& through, const Network& network, std::span<const double> weights);

/// Sums of the arcs of a path.
Path path_of(const Network& network, std::vector<int32_t> arcs);

/// The arcs that are kept, in order.
Network restricted(const Network& network, const std::function<bool(size_t)>& kept);

/// Without arcs that another between the same nodes makes needless: no worse in its objective and under every row. Of
/// equal arcs the first stays. Where variants are counted, only arcs of the same variants replace one another.
Network without_dominated(const Network& network);

}  // namespace tangram
