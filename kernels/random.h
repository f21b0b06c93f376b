#pragma once
#include <array>
#include <cstdint>

#include "kernels/context.h"

namespace tangram {

/// Random numbers without a state: each is a pure function of (seed, stream, index), so that any thread or rank, or a
/// run that resumes, can compute any of them in any order. By convention `seed` belongs to the run, `stream` to one use
/// of random numbers in it, and `index` counts.
///
/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): passes BigCrush.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// 64 random bits.
uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t index);

/// Uniform in [0, 1): a multiple of 2^-53.
double random_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/// Uniform in 0 to n - 1, exactly (Lemire 2019, arXiv:1805.10941). Throws Error if n is 0.
uint64_t random_below(uint64_t n, uint64_t seed, uint64_t stream, uint64_t index);

/// Normal with mean 0 and standard deviation 1 (Box & Muller 1958).
double random_normal(uint64_t seed, uint64_t stream, uint64_t index);

/// Fills x with numbers that are spread evenly over [center - width, center + width) and look like those of a trained
/// model to a processor's caches and power: for measuring speed, of which the values should not be zeros. Too plain a
/// hash for anything else. The same on every device.
///
///   x  (N, C)  f32 or bf16   any row stride
void fill_for_measuring(Tensor x, double center, double width, uint64_t seed, Context& ctx);

namespace cuda {  // random.cu
void fill_for_measuring(Tensor x, float center, float width, uint32_t seed, Context& ctx);
}

}  // namespace tangram
