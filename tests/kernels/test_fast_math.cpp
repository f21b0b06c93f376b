#include "kernels/fast_math.h"

#include <gtest/gtest.h>

#include <limits>

namespace tangram {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint32_t kStride = 1009;  // a prime: 4 million of the 4 billion floats, with all kinds of low bits

double ulp(double x) { return std::ldexp(1.0, std::ilogb(x) - 23); }

// The largest error of f against the f64 function, in f32 ulp of the result, over the positive and negative floats
// whose magnitude is from `first` to `last`.
template <class F, class Exact>
double largest_error(float first, float last, double sign, F f, Exact exact) {
  double largest = 0;
  for (uint32_t bits = std::bit_cast<uint32_t>(first); bits <= std::bit_cast<uint32_t>(last); bits += kStride) {
    const float x = float(sign) * std::bit_cast<float>(bits);
    const double expected = exact(double(x));
    const double error = std::abs(double(f(x)) - expected) / ulp(expected);
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

// Oracle: std::exp in f64.
TEST(FastMath, ExpIsWithinOneUlp) {
  const auto exact = [](double x) { return std::exp(x); };
  EXPECT_LE(largest_error(0, 88.37f, 1, fast_exp, exact), 1);
  EXPECT_LE(largest_error(0, 87.33f, -1, fast_exp, exact), 1);
}

TEST(FastMath, ExpBeyondItsRange) {
  EXPECT_EQ(fast_exp(0), 1);
  EXPECT_EQ(fast_exp(-0.0f), 1);
  for (const float x : {88.38f, 89.0f, 1000.0f, 3e38f, kInfinity}) EXPECT_EQ(fast_exp(x), kInfinity) << x;
  for (const float x : {-87.69f, -88.0f, -104.0f, -3e38f, -kInfinity}) EXPECT_EQ(fast_exp(x), 0) << x;
  EXPECT_TRUE(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(fast_exp(std::bit_cast<float>(0xffc12345u))));
}

TEST(FastMath, Sigmoid) {
  const auto exact = [](double x) { return 1 / (1 + std::exp(-x)); };
  EXPECT_LE(largest_error(0, 200, 1, fast_sigmoid, exact), 3);
  EXPECT_LE(largest_error(0, 87, -1, fast_sigmoid, exact), 3);
  EXPECT_EQ(fast_sigmoid(0), 0.5f);
  EXPECT_EQ(fast_sigmoid(-kInfinity), 0);
  EXPECT_EQ(fast_sigmoid(kInfinity), 1);
}

TEST(FastMath, SqrtIsWithinOneUlp) {
  const auto exact = [](double x) { return std::sqrt(x); };
  EXPECT_LE(largest_error(std::numeric_limits<float>::min(), std::numeric_limits<float>::max(), 1, fast_sqrt, exact),
            1);
  EXPECT_EQ(fast_sqrt(0), 0);
  EXPECT_EQ(fast_sqrt(4), 2);
  for (uint32_t bits = 0; bits < 0x00800000; bits += kStride) ASSERT_LE(fast_sqrt(std::bit_cast<float>(bits)), 2e-19f);
}

}  // namespace
}  // namespace tangram
