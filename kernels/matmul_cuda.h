#pragma once
#include <functional>
#include <optional>
#include <string>

#include "kernels/context.h"
#include "kernels/matmul_shape.h"

// Products of the GPU. An algorithm of cuBLASLt is chosen for a shape by measuring, and a run keeps its choices, so
// that going on with it, or repeating it in its folder, gives the same bits. None is eligible that adds in an order
// that may change. A shape that nothing was chosen for takes the library's first proposal.

namespace tangram::cuda {

/// cuBLASLt's advice for Hopper.
inline constexpr int64_t kMatmulWorkspaceBytes = int64_t{32} << 20;

/// c = a' b' or c += a' b' through cuBLASLt; arguments checked by tangram::matmul.
void matmul(Tensor c, Tensor a, Tensor b, const MatmulShape& shape, Tensor workspace, Context& ctx);

/// Measures the library's proposals for a shape on random operands, in memory that is taken and given back, and keeps
/// the fastest, unless a choice was made already. Where the GPU has no room for the operands, the first proposal is the
/// choice.
void choose_matmul(const MatmulShape& shape, Context& ctx);

/// From now on the context chooses for every shape of at least `least_flops` operations when it first meets it, and
/// calls `chosen` before it computes the product. What a Graph records has been met before.
void choose_matmuls(double least_flops, std::function<void()> chosen, Context& ctx);

/// All choices as text: one line that names the library and the GPU, and one for each shape.
std::string matmul_choices(Context& ctx);

/// Takes over the choices of such a text and returns how many they are; nothing if its first line is not what it would
/// be here. Throws Error (bad_input) naming the line that is damaged.
std::optional<int64_t> load_matmul_choices(const std::string& text, Context& ctx);

}  // namespace tangram::cuda
