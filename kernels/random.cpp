#include "kernels/random.h"

#include <cmath>
#include <numbers>

#include "kernels/check.h"

namespace tangram {
namespace {

using Block = std::array<uint32_t, 4>;

uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

std::array<uint32_t, 2> key_of(uint64_t seed) { return {low(seed), high(seed)}; }
Block random_block(uint64_t seed, uint64_t stream, uint64_t index) {
  return philox({low(index), high(index), low(stream), high(stream)}, key_of(seed));
}

uint64_t first_bits(const Block& block) { return uint64_t{block[1]} << 32 | block[0]; }
uint64_t second_bits(const Block& block) { return uint64_t{block[3]} << 32 | block[2]; }

double unit_interval(uint64_t bits) { return double(bits >> 11) * 0x1p-53; }

}  // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {high(b) ^ counter[1] ^ key[0], low(b), high(a) ^ counter[3] ^ key[1], low(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// In [-1, 1), by Knuth's multiplicative hash and a round of mixing.
static float hashed(uint32_t bits) {
  bits *= 2654435761u;
  bits = (bits ^ (bits >> 15)) * 2246822519u;
  return float((bits ^ (bits >> 13)) >> 8) * 0x1p-23f - 1;
}

uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  return first_bits(random_block(seed, stream, index));
}

double random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return unit_interval(random_bits(seed, stream, index));
}

uint64_t random_below(uint64_t n, uint64_t seed, uint64_t stream, uint64_t index) {
  CHECK(n > 0, "there is no number below 0");
  const uint64_t biased = -n % n;  // 2^64 mod n products would fall to the low results once too often
  Block block = random_block(seed, stream, index);
  for (;; block = philox(block, key_of(seed))) {
    const auto product = static_cast<unsigned __int128>(first_bits(block)) * n;
    if (static_cast<uint64_t>(product) >= biased) return static_cast<uint64_t>(product >> 64);
  }
}

double random_normal(uint64_t seed, uint64_t stream, uint64_t index) {
  const Block block = random_block(seed, stream, index);
  const double u = 1 - unit_interval(first_bits(block)), v = unit_interval(second_bits(block));  // u > 0
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

void fill_for_measuring(Tensor x, double center, double width, uint64_t seed, Context& ctx) {
  const auto c = static_cast<float>(center), w = static_cast<float>(width);
  const auto key = static_cast<uint32_t>(seed * 0x9E3779B97F4A7C15u >> 32);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {x})) return cuda::fill_for_measuring(x, c, w, key, ctx);
  dispatch(x.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t i = 0; i < x.cols; ++i) x.row<T>(r)[i] = T(c + w * hashed(uint32_t(r * x.cols + i) ^ key));
  });
}

}  // namespace tangram
