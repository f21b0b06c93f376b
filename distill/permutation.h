#pragma once
#include <cstdint>

namespace tangram {

/// Where a pseudo-random permutation of 0 to n - 1 takes `i`, without the permutation ever being stored. (seed, stream)
/// picks the permutation; equal arguments give equal results.
///
/// A Feistel network permutes the smallest range 0 to 4^k - 1 that holds n, and is applied again until the result is
/// below n (cycle walking: Black & Rogaway 2002, "Ciphers with arbitrary finite domains"); fewer than 4 times on
/// average. Throws Error unless 0 <= i < n <= 2^62.
int64_t permuted(int64_t i, int64_t n, uint64_t seed, uint64_t stream);

}  // namespace tangram
