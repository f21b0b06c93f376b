#include "distill/permutation.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "kernels/error.h"

namespace tangram {
namespace {

std::vector<int64_t> permutation(int64_t n, uint64_t seed, uint64_t stream) {
  std::vector<int64_t> p;
  for (int64_t i = 0; i < n; ++i) p.push_back(permuted(i, n, seed, stream));
  return p;
}

// Brute force: every value once, at every size around the powers of four where the network grows.
TEST(Permutation, EveryValueOnce) {
  std::vector<int64_t> sizes;
  for (int64_t n = 1; n <= 140; ++n) sizes.push_back(n);
  for (int64_t n : {255, 256, 257, 1000, 4095, 4096, 4097, 20000}) sizes.push_back(n);
  for (int64_t n : sizes) {
    std::vector<bool> seen(size_t(n), false);
    for (int64_t v : permutation(n, 7, uint64_t(n))) {
      ASSERT_TRUE(0 <= v && v < n) << v << " of " << n;
      ASSERT_FALSE(seen[size_t(v)]) << v << " twice of " << n;
      seen[size_t(v)] = true;
    }
  }
}

TEST(Permutation, AllOrdersOfFewAreReachedAboutEquallyOften) {
  std::vector<int> counts(256, 0);
  std::set<int> orders;
  constexpr int kTrials = 4800;  // 200 of each of 24
  for (uint64_t stream = 0; stream < kTrials; ++stream) {
    int code = 0;
    for (int64_t v : permutation(4, 3, stream)) code = code * 4 + int(v);
    ++counts[size_t(code)];
    orders.insert(code);
  }
  ASSERT_EQ(orders.size(), 24u);
  double chi_square = 0;
  for (int code : orders) chi_square += (counts[size_t(code)] - 200.0) * (counts[size_t(code)] - 200.0) / 200.0;
  EXPECT_LT(chi_square, 64.0);  // 23 degrees of freedom exceed this with probability 1e-5
}

TEST(Permutation, PlacesAreUniform) {
  // Where item 5 of 100 goes over 10,000 permutations: 100 expected at each place.
  std::vector<int> counts(100, 0);
  for (uint64_t stream = 0; stream < 10000; ++stream) ++counts[size_t(permuted(5, 100, 11, stream))];
  double chi_square = 0;
  for (int c : counts) chi_square += (c - 100.0) * (c - 100.0) / 100.0;
  EXPECT_LT(chi_square, 168.0);  // 99 degrees of freedom exceed this with probability 2e-5
}

TEST(Permutation, DependsOnSeedAndStreamAlone) {
  EXPECT_EQ(permutation(1000, 1, 2), permutation(1000, 1, 2));
  EXPECT_NE(permutation(1000, 1, 2), permutation(1000, 1, 3));
  EXPECT_NE(permutation(1000, 1, 2), permutation(1000, 2, 2));
}

TEST(Permutation, NeighboursGoApart) {
  // Of 10,000 neighbours, a random permutation keeps about one on either side together.
  const std::vector<int64_t> p = permutation(10000, 5, 0);
  int together = 0;
  for (size_t i = 1; i < p.size(); ++i) together += std::abs(p[i] - p[i - 1]) == 1;
  EXPECT_LT(together, 12);  // Poisson of mean 2 exceeds this with probability 1e-6
}

TEST(Permutation, LargeRanges) {
  const int64_t n = int64_t{1} << 62;
  std::set<int64_t> values;
  for (int64_t i = 0; i < 1000; ++i) values.insert(permuted(n - 1 - i, n, 1, 1));
  EXPECT_EQ(values.size(), 1000u);
  EXPECT_GE(*values.begin(), 0);
  EXPECT_LT(*values.rbegin(), n);
}

TEST(Permutation, RefusesWhatIsOutside) {
  EXPECT_THROW(permuted(3, 3, 0, 0), Error);
  EXPECT_THROW(permuted(-1, 3, 0, 0), Error);
  EXPECT_THROW(permuted(0, 0, 0, 0), Error);
}

}  // namespace
}  // namespace tangram
