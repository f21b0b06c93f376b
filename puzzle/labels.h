#pragma once
#include <chrono>

#include "puzzle/network.h"

namespace tangram {

struct LabelOptions {
  std::vector<std::vector<double>> multipliers;  ///< each (rows); their bounds cut labels off
  double below = 0;                              ///< only paths with a smaller objective are of interest
  size_t labels_at_most = 0;                     ///< in all; giving up is an answer
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

/// All paths over a network that keep the rows and may be better than `below`, layer by layer, as labels at nodes: sums
/// of costs and objective. A label goes where a Lagrangian bound shows that no completion is of interest, and where
/// another at the node is no worse in its objective and under every row; those with equal costs, which are many where
/// layers have the same costs, so melt into one. Sums of costs are kept in whole numbers of 2^-58 of the capacity, so
/// that they do not depend on the order of layers. `found` gets the paths, and may lower `below` by what it returns.
/// False: it was given up, and nothing is proven.
bool search_by_labels(const Network& network, const LabelOptions& options,
                      const std::function<double(const std::vector<int32_t>&)>& found);

}  // namespace tangram
