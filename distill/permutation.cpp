#include "distill/permutation.h"

#include <bit>

#include "kernels/error.h"
#include "kernels/random.h"

namespace tangram {

int64_t permuted(int64_t i, int64_t n, uint64_t seed, uint64_t stream) {
  CHECK(0 <= i && i < n && n <= int64_t{1} << 62, "{} in a permutation of {}", i, n);
  constexpr uint64_t kRounds = 6;  // 4 make it look random from outside; small ranges need a few more
  const int half_bits = (std::bit_width(uint64_t(n - 1)) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t x = uint64_t(i);
  do {
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (random_bits(seed, stream, round << 32 | right) & mask);
      left = right;
      right = mixed;
    }
    x = left << half_bits | right;
  } while (x >= uint64_t(n));
  return int64_t(x);
}

}  // namespace tangram
