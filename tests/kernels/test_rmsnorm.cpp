#include "kernels/rmsnorm.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/elementwise.h"
#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

constexpr float kEps = 1e-5f;
constexpr double kF32 = 0x1p-24;

struct Case {
  int64_t N, C;
  DType dtype;
  int threads;
};

class RmsnormTest : public testing::TestWithParam<Case> {
 protected:
  const Case p = GetParam();
  Context ctx{{.threads = p.threads}};
  Arena arena{1 << 24};
  const Tensor x = random_tensor(arena, p.N, p.C, p.dtype, 1), w = random_tensor(arena, 1, p.C, p.dtype, 2);
  const Tensor dy = random_tensor(arena, p.N, p.C, p.dtype, 3), rstd = arena.tensor(1, p.N, DType::f32);
  const double unit = unit_roundoff(p.dtype);

  // Row n of x, with `step` added to one element.
  std::vector<double> row(int64_t n, int64_t c, double step) {
    std::vector<double> values(p.C);
    for (int64_t i = 0; i < p.C; ++i) values[i] = get(x, n, i) + (i == c ? step : 0);
    return values;
  }
  static double rstd_f64(const std::vector<double>& x) {
    double sum = 0;
    for (const double v : x) sum += v * v;
    return 1 / std::sqrt(sum / double(x.size()) + kEps);
  }
  // sum_c dy[n,c] * y[n,c], whose derivatives are the gradients.
  double loss(int64_t n, const std::vector<double>& values) {
    double sum = 0;
    for (int64_t i = 0; i < p.C; ++i) sum += get(dy, n, i) * values[i] * rstd_f64(values) * get(w, 0, i);
    return sum;
  }
  double slope(int64_t n, int64_t c) { return (loss(n, row(n, c, 1e-5)) - loss(n, row(n, c, -1e-5))) / 2e-5; }
  // Of sums of C products in f32, relative to the largest term of dx; 1e-7 is the error of the differences.
  double dx_tolerance(int64_t n, double expected) {
    double terms = 0;
    for (int64_t i = 0; i < p.C; ++i)
      terms = std::max(terms, std::abs(get(dy, n, i) * get(w, 0, i)) + std::abs(get(x, n, i)));
    const double r = rstd_f64(row(n, 0, 0));
    return unit * std::abs(expected) + (double(p.C) + 8) * kF32 * r * terms * (1 + r * r * terms * terms) + 1e-7;
  }
};

// Oracle: the formula in f64.
TEST_P(RmsnormTest, ForwardMatchesF64) {
  const Tensor y = strided_tensor(arena, p.N, p.C, p.dtype), in_place = clone(arena, x);
  rmsnorm_forward(y, rstd, x, w, kEps, ctx);
  for (int64_t n = 0; n < p.N; ++n) {
    const double r = rstd_f64(row(n, 0, 0));
    EXPECT_NEAR(rstd.as<float>()[n], r, (double(p.C) + 3) * kF32 * r);  // C roundings of a sum of positive terms
    for (int64_t c = 0; c < p.C; ++c) {
      const double expected = get(x, n, c) * r * get(w, 0, c);
      EXPECT_NEAR(get(y, n, c), expected, (unit + (double(p.C) + 5) * kF32) * std::abs(expected)) << n << ',' << c;
    }
  }
  EXPECT_TRUE(gaps_intact(y));
  rmsnorm_forward(in_place, rstd, in_place, w, kEps, ctx);
  EXPECT_TRUE(same_bytes(in_place, y));
}

// Oracle: central differences of the f64 forward pass.
TEST_P(RmsnormTest, BackwardMatchesFiniteDifferences) {
  const Tensor y = strided_tensor(arena, p.N, p.C, p.dtype), dx = strided_tensor(arena, p.N, p.C, p.dtype);
  const Tensor dw = strided_tensor(arena, 1, p.C, DType::f32);
  rmsnorm_forward(y, rstd, x, w, kEps, ctx);
  for (int64_t c = 0; c < p.C; ++c) set(dw, 0, c, 0.5);
  rmsnorm_backward(dx, dw, dy, x, w, rstd, ctx, false);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t c = 0; c < p.C; ++c) {
      const double expected = slope(n, c);
      EXPECT_NEAR(get(dx, n, c), expected, dx_tolerance(n, expected)) << n << ',' << c;
    }
  for (int64_t c = 0; c < p.C; ++c) {
    double expected = 0.5, size = 0.5;
    for (int64_t n = 0; n < p.N; ++n) {
      const double term = get(dy, n, c) * get(x, n, c) * rstd_f64(row(n, 0, 0));
      expected += term, size += std::abs(term);
    }
    EXPECT_NEAR(get(dw, 0, c), expected, (double(p.N + p.C) + p.threads + 5) * kF32 * size) << c;
  }
  EXPECT_TRUE(gaps_intact(dx) && gaps_intact(dw));
}

TEST_P(RmsnormTest, BackwardInPlaceAccumulatedAndPartial) {
  const Tensor dx = strided_tensor(arena, p.N, p.C, p.dtype), in_place = clone(arena, dy);
  const Tensor dw = arena.tensor(1, p.C, DType::f32), dw_alone = arena.tensor(1, p.C, DType::f32);
  rmsnorm_forward(dx, rstd, x, w, kEps, ctx);
  fill_zero(dw), fill_zero(dw_alone);
  rmsnorm_backward(dx, dw, dy, x, w, rstd, ctx, false);
  rmsnorm_backward(in_place, {}, in_place, x, w, rstd, ctx, false);
  EXPECT_TRUE(same_bytes(in_place, dx));
  rmsnorm_backward({}, dw_alone, dy, x, w, rstd, ctx, false);
  EXPECT_TRUE(same_bytes(dw_alone, dw));

  const Tensor residual = random_tensor(arena, p.N, p.C, p.dtype, 4), sum = clone(arena, residual);
  rmsnorm_backward(sum, {}, dy, x, w, rstd, ctx, true);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t c = 0; c < p.C; ++c) {
      const double added = slope(n, c), expected = get(residual, n, c) + added;
      EXPECT_NEAR(get(sum, n, c), expected, dx_tolerance(n, added) + unit * std::abs(expected)) << n << ',' << c;
    }
}

TEST_P(RmsnormTest, AddsFirst) {
  const Tensor sum = strided_tensor(arena, p.N, p.C, p.dtype), y = strided_tensor(arena, p.N, p.C, p.dtype);
  const Tensor expected_sum = clone(arena, x), expected = clone(arena, x),
               expected_rstd = arena.tensor(1, p.N, DType::f32);
  add(expected_sum, x, dy, ctx);
  rmsnorm_forward(expected, expected_rstd, expected_sum, w, kEps, ctx);
  add_rmsnorm_forward(y, sum, rstd, x, dy, w, kEps, ctx);
  EXPECT_TRUE(same_bytes(sum, expected_sum) && same_bytes(y, expected) && same_bytes(rstd, expected_rstd));
  EXPECT_TRUE(gaps_intact(sum) && gaps_intact(y));
}

INSTANTIATE_TEST_SUITE_P(Shapes, RmsnormTest,
                         testing::Values(Case{0, 8, DType::f32, 2}, Case{1, 1, DType::f32, 1},
                                         Case{1, 37, DType::f32, 3}, Case{5, 64, DType::f32, 2},
                                         Case{7, 129, DType::f32, 2}, Case{7, 129, DType::bf16, 2},
                                         Case{3, 16, DType::bf16, 1}));

TEST(Rmsnorm, RefusesWhatDisagrees) {
  Context ctx({.threads = 1});
  Arena arena(1 << 16);
  const Tensor x = arena.tensor(2, 4, DType::f32), w = arena.tensor(1, 4, DType::f32);
  const Tensor rstd = arena.tensor(1, 2, DType::f32), five = arena.tensor(2, 5, DType::f32);
  const Tensor half = arena.tensor(2, 4, DType::bf16), integers = arena.tensor(2, 4, DType::i32);
  EXPECT_THROW(rmsnorm_forward(five, rstd, x, w, kEps, ctx), Error);
  EXPECT_THROW(rmsnorm_forward(half, rstd, x, w, kEps, ctx), Error);
  EXPECT_THROW(rmsnorm_forward(x, rstd, x, five.row_range(0, 1), kEps, ctx), Error);
  EXPECT_THROW(rmsnorm_forward(x, w, x, w, kEps, ctx), Error);
  EXPECT_THROW(rmsnorm_forward(integers, rstd, integers, integers.row_range(0, 1), kEps, ctx), Error);
  EXPECT_THROW(rmsnorm_backward(five, {}, x, x, w, rstd, ctx, false), Error);
  EXPECT_THROW(rmsnorm_backward(x, {}, five, x, w, rstd, ctx, false), Error);
  EXPECT_THROW(rmsnorm_backward({}, half.row_range(0, 1), x, x, w, rstd, ctx, false), Error);
}

}  // namespace
}  // namespace tangram
