#pragma once
#include <optional>

#include "puzzle/network.h"

namespace tangram {

/// A path that keeps every row, from one that may not: arcs are exchanged for others between the same nodes, first
/// until it keeps the rows, then, one or two at a time, while the objective falls. Only the `arcs_at_most` arcs on the
/// lightest paths under these multipliers are tried. None if it cannot be made to keep the rows in this way.
std::optional<Path> improve_by_swaps(const Network& network, const Path& path, std::span<const double> multipliers,
                                     size_t arcs_at_most);

}  // namespace tangram
