#pragma once
#include "blocks/variant.h"

namespace tangram {

/// The parts of `linear`, which replaces a subblock by one matrix, y = x w^T with w (H, H), and is the same for
/// attention and FFN but for the parameter's name and the product it starts from (Bercovich et al. 2024,
/// arXiv:2411.19146).
std::vector<ParamSpec> linear_params(const char* name, const ModelConfig& config);
Cost linear_cost(const ModelConfig& config);
void linear_forward(Tensor y, Tensor proj, Context& ctx);
void linear_backward(Tensor dproj, Tensor dy, Context& ctx);
void linear_infer(Tensor y, const Normed& x, Params params, Context& ctx);

}  // namespace tangram
