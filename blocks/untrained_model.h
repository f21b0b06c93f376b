#pragma once
#include "blocks/model.h"

namespace tangram {

/// A model with the weights that training starts from, a pure function of its shape and the seed: norms 1; the
/// embedding normal with deviation 0.5; matrices normal with 1 / sqrt(inputs), those that write to the residual stream
/// divided by a further sqrt(2 L), so that its variance does not grow with depth (Radford et al. 2019).
Model make_untrained_model(const ModelConfig& config, const Architecture& architecture, DType dtype, uint64_t seed);

}  // namespace tangram
