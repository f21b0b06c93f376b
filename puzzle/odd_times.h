#pragma once
#include <span>
#include <vector>

#include "puzzle/measure.h"

namespace tangram {

/// What one kind of subblock took in a scenario.
struct PartTime {
  Choice choice;
  Runtime runtime;
};

/// A time that does not go with another: too long, since what disturbs a timing only lengthens it.
struct OddTime {
  size_t part, beside;  ///< indices of the odd one, and of the one that it does not go with
  bool is_decode;       ///< or the prefill
};

/// Times that contradict each other. Of two sizes of one variant, a < b, with t the time of one phase:
///
///   t(a) > 1.3 t(b)        a is odd: less work takes longer, by more than timings of one part differ
///   t(b) > 3 t(a) b / a    b is odd: a unit of width takes longer the more there are, by more than the change from a
///                          cache to memory explains
///
/// and of two variants of a subblock, a with neither more weights nor more cache than b,
///
///   t(a) > 3 t(b)          a is odd
///
/// all beyond 5 us for each pass, which starts of kernels take. One pair is named for each odd part and phase.
std::vector<OddTime> odd_times(std::span<const PartTime> parts, const ModelConfig& config, const Scenario& scenario);

}  // namespace tangram
