#include "kernels/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "kernels/error.h"

namespace tangram {
namespace {

using Block = std::array<uint32_t, 4>;

// Oracle: the known answers for philox4x32-10 that its authors publish with Random123 (tests/kat_vectors).
TEST(Random, PhiloxKnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// By hand from the third known answer: all bits of seed, stream and index take part.
TEST(Random, BitsAreTheFirstTwoWords) {
  EXPECT_EQ(random_bits(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88), 0x94fdccebd16cfe09);
}

// Bounds on statistics are 5 standard deviations of their own distribution; the numbers are fixed, so the outcome is
// too.
TEST(Random, UniformHasTheRightMoments) {
  constexpr int kCount = 100000;
  double sum = 0, squares = 0, products = 0, before = 0.5;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double u = random_uniform(1, 2, i);
    ASSERT_TRUE(u >= 0 && u < 1);
    sum += u, squares += (u - 0.5) * (u - 0.5), products += (u - 0.5) * (before - 0.5);
    before = u;
  }
  EXPECT_NEAR(sum / kCount, 0.5, 5 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(squares / kCount, 1.0 / 12, 5 * std::sqrt(1.0 / 180 / kCount));
  EXPECT_NEAR(products / kCount, 0, 5.0 / 12 / std::sqrt(kCount));  // neighbours are independent
}

TEST(Random, NormalHasTheRightMoments) {
  constexpr int kCount = 100000;
  double sum = 0, squares = 0, fourth = 0;
  for (uint64_t i = 0; i < kCount; ++i) {
    const double z = random_normal(1, 2, i);
    ASSERT_TRUE(std::isfinite(z));
    sum += z, squares += z * z, fourth += z * z * z * z;
  }
  EXPECT_NEAR(sum / kCount, 0, 5 * std::sqrt(1.0 / kCount));
  EXPECT_NEAR(squares / kCount, 1, 5 * std::sqrt(2.0 / kCount));
  EXPECT_NEAR(fourth / kCount, 3, 5 * std::sqrt(96.0 / kCount));
}

TEST(Random, BelowIsUniform) {
  constexpr int kCount = 60000;
  std::map<uint64_t, int> counts;
  for (uint64_t i = 0; i < kCount; ++i) ++counts[random_below(6, 3, 4, i)];
  ASSERT_EQ(counts.size(), 6u);
  EXPECT_EQ(counts.rbegin()->first, 5u);
  for (const auto& [value, count] : counts) EXPECT_NEAR(count, 10000, 5 * std::sqrt(kCount * 5.0 / 36)) << value;
  EXPECT_EQ(random_below(1, 3, 4, 5), 0u);
  EXPECT_THROW(random_below(0, 3, 4, 5), Error);
}

// With n = 3/4 of 2^64 a plain multiplication would give a third of the results half as often again as the rest: those
// that are 0 mod 3.
TEST(Random, BelowRejectsWhatWouldBias) {
  constexpr int kCount = 60000;
  constexpr uint64_t n = uint64_t{3} << 62;
  int counts[3] = {};
  for (uint64_t i = 0; i < kCount; ++i) {
    const uint64_t value = random_below(n, 3, 4, i);
    ASSERT_LT(value, n);
    ++counts[value % 3];
  }
  for (const int count : counts) EXPECT_NEAR(count, 20000, 5 * std::sqrt(kCount * 2.0 / 9));
}

}  // namespace
}  // namespace tangram
