#pragma once
#include <span>
#include <vector>

#include "kernels/communicator.h"
#include "kernels/context.h"

namespace tangram {

/// Operations per second of a matrix product that every rank repeats for a moment, all at the same time: what each of
/// them can do beside the others of its node. On every rank those of all. A collective.
std::vector<double> product_rates(Communicator& world, DType dtype, Context& ctx);

/// Relative to the fastest. What comes near it counts as the same: GPUs of one kind differ by that much from one
/// moment to the next, and the work is not to be cut otherwise for it.
std::vector<double> relative_speeds(std::span<const double> rates);

}  // namespace tangram
