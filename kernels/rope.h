#pragma once
#include <optional>
#include <span>
#include <vector>

#include "kernels/indices.h"

namespace tangram {

/// Llama 3.1's stretching of the low frequencies (`rope_scaling` of type "llama3" in config.json).
struct RopeScaling {
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_max_position_embeddings = 8192;
  bool operator==(const RopeScaling&) const = default;
};

/// Rotation speed of each pair of channels, in radians a token (Su et al. 2021, arXiv:2104.09864):
///
///   f[i] = theta^(-2i / D)     i < D/2
///
/// and with scaling, for the wavelength L = 2 pi / f[i], low = original / low_freq_factor and high likewise:
///   L < high: f[i]     L > low: f[i] / factor     else f[i] * ((1 - s) / factor + s),
///   s = (original / L - low_freq_factor) / (high_freq_factor - low_freq_factor)
std::vector<double> rope_frequencies(int64_t head_dim, double theta, const std::optional<RopeScaling>& scaling);

/// The rotations of a batch, computed once and shared by all layers:
///
///   rope[n, i] = cos(p f[i])     rope[n, D/2 + i] = sin(p f[i])     p = positions[n]
///
///   rope  (N, D)  f32
void rope_angles(Tensor rope, std::span<const int32_t> positions, std::span<const double> frequencies);

/// The same on the context's device, of positions that only a GPU may know. The angles are in f64 there, too.
void rope_angles(Tensor rope, Indices positions, std::span<const double> frequencies, Context& ctx);

/// Rotates the pairs (i, i + D/2) of every head, in place: the "rotate half" order of Hugging Face checkpoints.
///
///   y[i] = x[i] cos - x[i + D/2] sin     y[i + D/2] = x[i + D/2] cos + x[i] sin
///
///   x     (N, heads * D)  T     any row stride
///   rope  (N, D)  f32           from rope_angles
void rope_forward(Tensor x, Tensor rope, Context& ctx);

/// The gradient of rope_forward: the rotation by the opposite angle, in place.
void rope_backward(Tensor dx, Tensor rope, Context& ctx);

/// Throws Error unless rope has the angles of x's rows, and x whole heads.
void check_rope(Tensor x, Tensor rope);

namespace cuda {  // rope.cu; arguments already checked
void rope_angles(Tensor rope, const int32_t* positions, std::span<const double> frequencies, Context& ctx);
/// Forward for direction 1, backward for -1.
void rotate(Tensor x, Tensor rope, float direction, Context& ctx);
}  // namespace cuda

}  // namespace tangram
