#pragma once
#include "blocks/variant.h"

namespace tangram {

/// Every parameter normal with the standard deviation of the teacher's parameter of the same place; for a variant with
/// fewer parameters than the teacher's, of the teacher's last one (the matrix that writes to the residual stream).
void init_random(std::span<const Weight> child, std::span<const Weight> teacher, uint64_t seed);

/// The best linear map of a subblock in the least-squares sense, from the statistics of its inputs and outputs:
///
///   w = argmin mean ||x w^T - y||^2 + ridge ||w||^2,  that is  (xx + ridge I) w^T = xy     w (H, H)
void init_linear_least_squares(Tensor w, const SubblockStatistics& statistics, Context& ctx);

/// w = a b for the product of two of the teacher's matrices, in f32. a (M, K), b (K, N), w (M, N)
void init_product(Tensor w, Tensor a, Tensor b, Context& ctx);

}  // namespace tangram
