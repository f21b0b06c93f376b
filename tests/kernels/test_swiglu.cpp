#include "kernels/swiglu.h"

#include <gtest/gtest.h>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

constexpr double kF32 = 0x1p-24;

struct Case {
  int64_t N, I;
  DType dtype;
};

double silu(double z) { return z / (1 + std::exp(-z)); }
double silu_slope(double z) { return (silu(z + 1e-5) - silu(z - 1e-5)) / 2e-5; }

class SwigluTest : public testing::TestWithParam<Case> {
 protected:
  const Case p = GetParam();
  Context ctx{{.threads = 2}};
  Arena arena{1 << 22};
  // gate and up are columns of one product, as a model has them.
  const Tensor wide = random_tensor(arena, p.N, 2 * p.I, p.dtype, 1), dh = random_tensor(arena, p.N, p.I, p.dtype, 2);
  const Tensor gate = wide.col_range(0, p.I), up = wide.col_range(p.I, p.I);
  const double unit = unit_roundoff(p.dtype);

  void SetUp() override {
    for (int64_t n = 0; n < p.N; ++n)  // far out on both sides too
      for (int64_t i = 0; i < p.I; i += 3) set(gate, n, i, 10 * get(gate, n, i));
  }
};

// Oracle: the formula in f64. 3 ulp of the sigmoid, 2 products.
TEST_P(SwigluTest, ForwardMatchesF64) {
  const Tensor h = strided_tensor(arena, p.N, p.I, p.dtype);
  swiglu_forward(h, gate, up, ctx);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t i = 0; i < p.I; ++i) {
      const double expected = silu(get(gate, n, i)) * get(up, n, i);
      EXPECT_NEAR(get(h, n, i), expected, (unit + 8 * kF32) * std::abs(expected)) << n << ',' << i;
    }
  EXPECT_TRUE(gaps_intact(h));
  swiglu_forward(gate, gate, up, ctx);
  EXPECT_TRUE(same_bytes(gate, h));
}

// Oracle: central differences in f64 (their error is below 1e-9 times dh up). The terms 1 and gate (1 - s) may cancel.
TEST_P(SwigluTest, BackwardMatchesFiniteDifferences) {
  const Tensor dwide = strided_tensor(arena, p.N, 2 * p.I, p.dtype);
  const Tensor dgate = dwide.col_range(0, p.I), dup = dwide.col_range(p.I, p.I);
  swiglu_backward(dgate, dup, dh, gate, up, ctx);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t i = 0; i < p.I; ++i) {
      const double g = get(gate, n, i), factor = get(dh, n, i) * get(up, n, i);
      EXPECT_NEAR(get(dgate, n, i), factor * silu_slope(g),
                  unit * std::abs(factor * silu_slope(g)) + (12 * kF32 * (1 + std::abs(g)) + 1e-9) * std::abs(factor))
          << n << ',' << i;
      const double expected = get(dh, n, i) * silu(g);
      EXPECT_NEAR(get(dup, n, i), expected, (unit + 8 * kF32) * std::abs(expected)) << n << ',' << i;
    }
  EXPECT_TRUE(gaps_intact(dwide));
  swiglu_backward(gate, up, dh, gate, up, ctx);
  EXPECT_TRUE(same_bytes(wide, dwide));
}

TEST_P(SwigluTest, BackwardInAnyPlace) {
  const Tensor dgate = strided_tensor(arena, p.N, p.I, p.dtype), dup = strided_tensor(arena, p.N, p.I, p.dtype);
  const Tensor other = strided_tensor(arena, p.N, p.I, p.dtype), over_dh = clone(arena, dh);
  swiglu_backward(dgate, dup, dh, gate, up, ctx);
  swiglu_backward(over_dh, other, over_dh, gate, up, ctx);
  EXPECT_TRUE(same_bytes(over_dh, dgate) && same_bytes(other, dup));
  copy(over_dh, dh);
  swiglu_backward(other, over_dh, over_dh, gate, up, ctx);
  EXPECT_TRUE(same_bytes(other, dgate) && same_bytes(over_dh, dup));
  swiglu_backward(up, gate, dh, gate, up, ctx);
  EXPECT_TRUE(same_bytes(up, dgate) && same_bytes(gate, dup));
}

INSTANTIATE_TEST_SUITE_P(Shapes, SwigluTest,
                         testing::Values(Case{0, 8, DType::f32}, Case{1, 1, DType::f32}, Case{1, 40, DType::bf16},
                                         Case{5, 67, DType::f32}, Case{5, 67, DType::bf16}, Case{3, 128, DType::f32}));

TEST(Swiglu, ExtremeGates) {
  Context ctx({.threads = 1});
  float gate[] = {-200, -100, 0, 100, 200}, up[] = {1, 1, 1, 1, 1}, h[5];
  swiglu_forward(view_of(h, 1, 5), view_of(gate, 1, 5), view_of(up, 1, 5), ctx);
  EXPECT_EQ(h[0], 0);
  EXPECT_EQ(h[1], 0);
  EXPECT_EQ(h[2], 0);
  EXPECT_EQ(h[3], 100);
  EXPECT_EQ(h[4], 200);
}

TEST(Swiglu, RefusesWhatDisagrees) {
  Context ctx({.threads = 1});
  Arena arena(1 << 12);
  const Tensor x = arena.tensor(2, 4, DType::f32), wide = arena.tensor(2, 5, DType::f32);
  const Tensor half = arena.tensor(2, 4, DType::bf16);
  EXPECT_THROW(swiglu_forward(wide, x, x, ctx), Error);
  EXPECT_THROW(swiglu_forward(x, x, half, ctx), Error);
  EXPECT_THROW(swiglu_backward(x, wide, x, x, x, ctx), Error);
  EXPECT_THROW(swiglu_backward(x, x, half, x, x, ctx), Error);
}

}  // namespace
}  // namespace tangram
