#pragma once
#include <algorithm>
#include <span>
#include <vector>

#include "distill/bld_layer.h"

namespace tangram {

/// A piece of blockwise distillation that is never cut: all plain variants of one subblock of one layer, which share
/// their products, or one pair or span. Which process does it does not change a bit of it.
struct BldUnit {
  int64_t layer;               ///< that its students end with
  int64_t input_layer;         ///< the first layer whose input they read; `layer` unless a span's
  std::vector<size_t> places;  ///< of its replacements in the list

  double flops = 0;          ///< of one micro-batch, the teacher's forward pass not counted
  int64_t state_bytes = 0;   ///< that live from step to step: weights, masters, moments
  int64_t weight_bytes = 0;  ///< of them the weights, which every replica has
  int64_t gradient_bytes = 0;
};

/// The units of `replacements`, by layer: attention, FFN, pairs and spans. Costs are not filled in.
std::vector<BldUnit> units_of(std::span<const Replacement> replacements);

/// What the units of a teacher take, found by laying them out and running a micro-batch `batch` without computing;
/// returns the operations of the teacher's forward pass through one layer.
double add_costs(std::span<BldUnit> units, std::span<const Replacement> replacements, const ModelConfig& teacher,
                 DType dtype, const BldOptions& options, const Batch& batch, Device device);

/// What one stage of the pipeline does: units that follow each other, and the teacher's layers that they need.
struct BldStage {
  size_t first_unit = 0, unit_count = 0;
  int64_t begin = 0, end = 0;  ///< it runs the teacher's layers from begin up to, but not including, end
  double flops = 0;            ///< of a micro-batch: its units', and the teacher's forward pass
};

/// Cuts the units into as many consecutive stages as there are `speeds`, operations per second of each, such that the
/// longest time of any is as short as can be. `layer_flops` is the teacher's forward pass through one layer: a cut
/// inside a layer has two stages do it. Throws Error (bad_input) if there are more stages than units.
std::vector<BldStage> cut_stages(std::span<const BldUnit> units, double layer_flops, std::span<const double> speeds);

/// Part of the time that stages (of either trainer) work rather than wait for the slowest: mean over longest.
template <class Stages>
double balance(const Stages& stages, std::span<const double> speeds) {
  double sum = 0, longest = 0;
  for (size_t s = 0; s < stages.size(); ++s) {
    const double seconds = stages[s].flops / speeds[s];
    sum += seconds, longest = std::max(longest, seconds);
  }
  return sum / (longest * double(stages.size()));
}

}  // namespace tangram
