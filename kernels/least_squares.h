#pragma once
#include "kernels/context.h"

namespace tangram {

/// Ridge of the closed-form starts, relative to the mean of the diagonal: enough to make a singular system regular, too
/// little to be seen in the solution of a regular one.
inline constexpr double kRelativeRidge = 1e-6;

/// Solves (a + r I) z = b with r = ridge * mean(diagonal of a), by Cholesky decomposition in f64.
///
///   a  (K, K)  f32   symmetric, positive semi-definite: second moments
///   b  (K, M)  f32
///   z  (K, M)  f32   z may be b
///
/// The ridge is raised tenfold until the decomposition succeeds; throws Error if a is not finite.
void solve_least_squares(Tensor z, Tensor a, Tensor b, double ridge, Context& ctx);

}  // namespace tangram
