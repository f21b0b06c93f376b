#include "kernels/rope.h"

#include <cmath>
#include <numbers>

#include "kernels/check.h"

namespace tangram {
namespace {

double stretched(double frequency, const RopeScaling& s) {
  const double wavelength = 2 * std::numbers::pi / frequency, original = double(s.original_max_position_embeddings);
  if (wavelength < original / s.high_freq_factor) return frequency;
  if (wavelength > original / s.low_freq_factor) return frequency / s.factor;
  const double share = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return frequency * ((1 - share) / s.factor + share);
}

void check_scaling(const RopeScaling& s) {
  const bool valid = s.factor > 0 && std::isfinite(s.factor) && s.low_freq_factor > 0 &&
                     s.high_freq_factor > s.low_freq_factor && std::isfinite(s.high_freq_factor) &&
                     s.original_max_position_embeddings > 0;
  if (!valid)
    throw bad_input(
        "rope_scaling: factor {}, low_freq_factor {}, high_freq_factor {}, original_max_position_embeddings {}; all "
        "must "
        "be positive and high_freq_factor above low_freq_factor",
        s.factor, s.low_freq_factor, s.high_freq_factor, s.original_max_position_embeddings);
}

// Forward for direction 1, backward for -1.
void rotate(Tensor x, Tensor rope, float direction, Context& ctx) {
  const int64_t D = rope.cols, half = D / 2;
  check_rope(x, rope);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {x, rope})) return cuda::rotate(x, rope, direction, ctx);
  dispatch(x.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (x.rows > 1)
    for (int64_t n = 0; n < x.rows; ++n) {
      const float *cosine = rope.row<float>(n), *sine = cosine + half;
      for (int64_t head = 0; head < x.cols; head += D) {
        T *first = x.row<T>(n) + head, *second = first + half;
#pragma GCC ivdep
        for (int64_t i = 0; i < half; ++i) {
          const float a = first[i], b = second[i], c = cosine[i], s = direction * sine[i];
          first[i] = T(a * c - b * s);
          second[i] = T(b * c + a * s);
        }
      }
    }
  });
}

}  // namespace

std::vector<double> rope_frequencies(int64_t head_dim, double theta, const std::optional<RopeScaling>& scaling) {
  if (head_dim < 2 || head_dim % 2 != 0) throw bad_input("head_dim is {}; must be even and at least 2", head_dim);
  if (!(theta > 0) || !std::isfinite(theta)) throw bad_input("rope_theta is {}; must be positive", theta);
  if (scaling) check_scaling(*scaling);
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double f = std::pow(theta, -2.0 * double(i) / double(head_dim));
    frequencies[i] = scaling ? stretched(f, *scaling) : f;
  }
  return frequencies;
}

void rope_angles(Tensor rope, std::span<const int32_t> positions, std::span<const double> frequencies) {
  const int64_t N = std::ssize(positions), half = std::ssize(frequencies);
  check_tensor("rope", rope, N, 2 * half, DType::f32);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t i = 0; i < half; ++i) {
      const double angle = positions[n] * frequencies[i];
      rope.row<float>(n)[i] = float(std::cos(angle));
      rope.row<float>(n)[half + i] = float(std::sin(angle));
    }
}

void rope_angles(Tensor rope, Indices positions, std::span<const double> frequencies, Context& ctx) {
  check_tensor("rope", rope, static_cast<int64_t>(positions.size()), 2 * std::ssize(frequencies), DType::f32);
  ArenaScope scope(ctx.scratch);
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {rope})) {
      const int32_t* p = positions.on_device(ctx);
      if (!ctx.planning()) cuda::rope_angles(rope, p, frequencies, ctx);
      return;
    }
  if (!ctx.planning()) rope_angles(rope, positions.span(), frequencies);
}

void check_rope(Tensor x, Tensor rope) {
  const int64_t D = rope.cols;
  CHECK(rope.rows == x.rows && rope.dtype == DType::f32, "rope is ({}, {}) {}; must be ({}, head_dim) f32", rope.rows,
        D, name_of(rope.dtype), x.rows);
  CHECK(D > 0 && D % 2 == 0 && x.cols % D == 0, "x has {} columns; must be whole heads of an even {}", x.cols, D);
}

void rope_forward(Tensor x, Tensor rope, Context& ctx) { rotate(x, rope, 1, ctx); }

void rope_backward(Tensor dx, Tensor rope, Context& ctx) { rotate(dx, rope, -1, ctx); }

}  // namespace tangram
