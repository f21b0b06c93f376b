#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

constexpr double kF32 = 0x1p-24;

RopeScaling llama3(double factor) {
  return {.factor = factor, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position_embeddings = 8192};
}

// Oracle: the divisors that llama.cpp writes as `rope_freqs` for Llama 3.1 (head_dim 128) and 3.2-1B (64), 7 digits.
void expect_divisors(int64_t head_dim, double factor, size_t first, const std::vector<double>& between) {
  const auto plain = rope_frequencies(head_dim, 500000, std::nullopt);
  const auto scaled = rope_frequencies(head_dim, 500000, llama3(factor));
  ASSERT_EQ(scaled.size(), size_t(head_dim) / 2);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_NEAR(plain[i], std::pow(500000, -double(2 * i) / double(head_dim)), 1e-15);
    const double expected = i < first ? 1 : i < first + between.size() ? between[i - first] : factor;
    EXPECT_NEAR(plain[i] / scaled[i], expected, 1e-6 * expected) << i;
  }
}

TEST(Rope, FrequenciesOfLlama31) {
  expect_divisors(128, 8, 29, {1.207484, 1.553415, 2.026313, 2.69453, 3.684253, 5.257327});
}
TEST(Rope, FrequenciesOfLlama32) { expect_divisors(64, 32, 15, {1.651329, 3.292262, 9.666729}); }

TEST(Rope, RefusesBadFrequencies) {
  EXPECT_THROW(rope_frequencies(63, 1e4, {}), Error);
  EXPECT_THROW(rope_frequencies(0, 1e4, {}), Error);
  EXPECT_THROW(rope_frequencies(64, 0, {}), Error);
  EXPECT_THROW(rope_frequencies(64, std::nan(""), {}), Error);
  EXPECT_THROW(rope_frequencies(64, 1e4, llama3(0)), Error);
  RopeScaling crossed = llama3(8);
  crossed.high_freq_factor = 1;
  EXPECT_THROW(rope_frequencies(64, 1e4, crossed), Error);
}

TEST(Rope, AnglesAtFarPositions) {
  const std::vector<int32_t> positions = {0, 1, 131071};
  const std::vector<double> frequencies = {1, 0.37, 1e-4};
  Arena arena(1 << 12);
  const Tensor rope = arena.tensor(3, 6, DType::f32);
  rope_angles(rope, positions, frequencies);
  for (int64_t n = 0; n < 3; ++n)
    for (int64_t i = 0; i < 3; ++i) {
      const long double angle = positions[n] * (long double)(frequencies[i]);
      EXPECT_NEAR(get(rope, n, i), double(std::cos(angle)), 2 * kF32);
      EXPECT_NEAR(get(rope, n, 3 + i), double(std::sin(angle)), 2 * kF32);
    }
}

struct Case {
  int64_t N, heads, D;
  DType dtype;
};

class RotationTest : public testing::TestWithParam<Case> {
 protected:
  const Case p = GetParam();
  Context ctx{{.threads = 2}};
  Arena arena{1 << 22};
  const Tensor x = random_tensor(arena, p.N, p.heads*p.D, p.dtype, 1), rope = arena.tensor(p.N, p.D, DType::f32);
  const std::vector<double> frequencies = rope_frequencies(p.D, 1e4, std::nullopt);

  void SetUp() override {
    std::vector<int32_t> positions(p.N);
    std::iota(positions.begin(), positions.end(), 3);
    rope_angles(rope, positions, frequencies);
  }

  // Oracle: in f64. 3 roundings of f32 on each of two terms, one rounding to T.
  void expect_rotated(Tensor y, Tensor from, double direction) {
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t c = 0; c < x.cols; ++c) {
        const int64_t i = c % p.D % (p.D / 2);
        const bool second = c % p.D >= p.D / 2;
        const double partner = get(from, n, second ? c - p.D / 2 : c + p.D / 2);
        const double angle = direction * double(n + 3) * frequencies[i];
        const double expected = get(from, n, c) * std::cos(angle) + (second ? 1 : -1) * partner * std::sin(angle);
        EXPECT_NEAR(
            get(y, n, c), expected,
            unit_roundoff(p.dtype) * std::abs(expected) + 4 * kF32 * (std::abs(get(from, n, c)) + std::abs(partner)))
            << n << ',' << c;
      }
  }
};

TEST_P(RotationTest, ForwardMatchesF64) {
  const Tensor y = clone(arena, x);
  rope_forward(y, rope, ctx);
  expect_rotated(y, x, 1);
  EXPECT_TRUE(gaps_intact(y));
}

// The gradient of a rotation is its transpose, the opposite rotation.
TEST_P(RotationTest, BackwardIsTheOppositeRotation) {
  const Tensor dx = clone(arena, x);
  rope_backward(dx, rope, ctx);
  expect_rotated(dx, x, -1);
}

INSTANTIATE_TEST_SUITE_P(Shapes, RotationTest,
                         testing::Values(Case{0, 2, 8, DType::f32}, Case{1, 1, 2, DType::f32},
                                         Case{5, 3, 16, DType::f32}, Case{5, 3, 64, DType::bf16},
                                         Case{4, 2, 6, DType::bf16}));

TEST(Rope, RefusesWhatDisagrees) {
  Context ctx({.threads = 1});
  Arena arena(1 << 12);
  const Tensor x = arena.tensor(2, 8, DType::f32);
  EXPECT_THROW(rope_forward(x, arena.tensor(2, 6, DType::f32), ctx), Error);
  EXPECT_THROW(rope_forward(x, arena.tensor(1, 8, DType::f32), ctx), Error);
  EXPECT_THROW(rope_forward(x, arena.tensor(2, 8, DType::bf16), ctx), Error);
  EXPECT_THROW(rope_backward(x, arena.tensor(2, 1, DType::f32), ctx), Error);
  EXPECT_THROW(rope_angles(arena.tensor(2, 6, DType::f32), std::vector<int32_t>{1}, std::vector<double>{1, 2, 3}),
               Error);
}

}  // namespace
}  // namespace tangram
