#include "kernels/mse.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace tangram {
namespace {

struct Case {
  int64_t N, H;
  DType student, teacher;
};

Tensor random_tensor(Arena& arena, int64_t rows, int64_t cols, DType dtype, std::mt19937& rng) {
  const Tensor values = arena.tensor(rows, cols, DType::f32), x = arena.tensor(rows, cols, dtype);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < values.size(); ++i) values.as<float>()[i] = normal(rng);
  copy(x, values);
  return x;
}

double at(Tensor x, int64_t n, int64_t h) {
  return x.dtype == DType::f32 ? x.row<float>(n)[h] : float(x.row<bf16>(n)[h]);
}

/// |y - target|^2 / |target|^2 with `step` added to one element of y.
double loss_f64(Tensor y, Tensor target, int64_t row, int64_t col, double step) {
  double error = 0, unit = 0;
  for (int64_t n = 0; n < y.rows; ++n)
    for (int64_t h = 0; h < y.cols; ++h) {
      const double e = at(y, n, h) + (n == row && h == col ? step : 0) - at(target, n, h);
      error += e * e;
      unit += at(target, n, h) * at(target, n, h);
    }
  return error / unit;
}

class MseTest : public testing::TestWithParam<Case> {};

// Oracle: the f64 loss and its central differences, exact up to rounding since the loss is quadratic.
TEST_P(MseTest, LossAndGradientMatchFiniteDifferences) {
  const auto [N, H, student, teacher] = GetParam();
  Context ctx({.threads = 2});
  Arena arena(8 << 20);
  std::mt19937 rng(2);
  const Tensor y = random_tensor(arena, N, H + 5, student, rng).col_range(1, H);
  const Tensor target = random_tensor(arena, N, H, teacher, rng), dy = arena.tensor(N, H, student);
  const Tensor unit = arena.tensor(1, 1, DType::f32), loss = arena.tensor(1, 1, DType::f32);
  sum_squares(unit, target, ctx);
  const float scale = 0.3f;
  normalized_mse(loss, dy, y, target, unit, scale, ctx);

  const double expected = loss_f64(y, target, -1, -1, 0);
  EXPECT_NEAR(*loss.as<float>(), expected, 2 * 0x1p-24 * expected);  // rounding of |target|^2 and of the loss
  for (int64_t i = 0; i < std::min<int64_t>(y.size(), 40); ++i) {
    const int64_t n = i % N, h = (i * 7919) % H;
    const double slope = scale * (loss_f64(y, target, n, h, 1e-3) - loss_f64(y, target, n, h, -1e-3)) / 2e-3;
    // 1e-12: cancellation in the differences; 4 roundings in f32 and one to T
    EXPECT_NEAR(at(dy, n, h), slope, 1e-12 + (4 * 0x1p-24 + unit_roundoff(student)) * std::abs(slope));
  }

  const Tensor only_loss = arena.tensor(1, 1, DType::f32);
  normalized_mse(only_loss, {}, y, target, unit, scale, ctx);
  EXPECT_EQ(*only_loss.as<float>(), *loss.as<float>());
  normalized_mse(only_loss, y, y, target, unit, scale, ctx);  // in place
  EXPECT_EQ(*only_loss.as<float>(), *loss.as<float>());
  for (int64_t n = 0; n < N; ++n)
    for (int64_t h = 0; h < H; ++h) ASSERT_EQ(at(y, n, h), at(dy, n, h));
}

INSTANTIATE_TEST_SUITE_P(Shapes, MseTest,
                         testing::Values(Case{1, 1, DType::f32, DType::f32}, Case{7, 33, DType::f32, DType::f32},
                                         Case{2, 9001, DType::f32, DType::bf16}, Case{7, 33, DType::bf16, DType::f32},
                                         Case{4, 64, DType::bf16, DType::bf16}));

TEST(Mse, HandValues) {
  Context ctx({.threads = 1});
  const std::vector<float> y = {1, 2}, target = {3, 4};
  std::vector<float> dy(2);
  float unit = 0, loss = 0;
  sum_squares(view_of(&unit, 1, 1), view_of(target.data(), 1, 2), ctx);
  EXPECT_EQ(unit, 25);
  normalized_mse(view_of(&loss, 1, 1), view_of(dy.data(), 1, 2), view_of(y.data(), 1, 2), view_of(target.data(), 1, 2),
                 view_of(&unit, 1, 1), 25, ctx);
  EXPECT_FLOAT_EQ(loss, 8.0f / 25);
  EXPECT_EQ(dy, (std::vector<float>{-4, -4}));
}

TEST(Mse, ZeroTargetAndEmptyBatch) {
  Context ctx({.threads = 1});
  const std::vector<float> y = {1, 2}, target = {0, 0};
  std::vector<float> dy(2);
  float unit = 1, loss = 0;
  sum_squares(view_of(&unit, 1, 1), view_of(target.data(), 1, 2), ctx);
  EXPECT_EQ(unit, 0);
  normalized_mse(view_of(&loss, 1, 1), view_of(dy.data(), 1, 2), view_of(y.data(), 1, 2), view_of(target.data(), 1, 2),
                 view_of(&unit, 1, 1), 1, ctx);
  EXPECT_EQ(loss, 5);
  EXPECT_EQ(dy, (std::vector<float>{2, 4}));
  normalized_mse(view_of(&loss, 1, 1), {}, view_of(y.data(), 0, 2), view_of(target.data(), 0, 2), view_of(&unit, 1, 1),
                 1, ctx);
  EXPECT_EQ(loss, 0);
}

TEST(Mse, SumDoesNotDependOnThreads) {
  Context one({.threads = 1}), three({.threads = 3});
  Arena arena(8 << 20);
  std::mt19937 rng(3);
  const Tensor x = random_tensor(arena, 3, 50001, DType::f32, rng);
  float a = 0, b = 0;
  sum_squares(view_of(&a, 1, 1), x, one);
  sum_squares(view_of(&b, 1, 1), x, three);
  EXPECT_EQ(a, b);
  double exact = 0;
  for (int64_t i = 0; i < x.size(); ++i) exact += double(x.as<float>()[i]) * x.as<float>()[i];
  EXPECT_NEAR(a, exact, 0x1p-24 * exact * 1.001);  // one rounding
}

TEST(Mse, RefusesDisagreeingShapes) {
  Context ctx({.threads = 1});
  std::vector<float> a(12);
  float unit = 1, loss = 0;
  const Tensor x = view_of(a.data(), 3, 4), l = view_of(&loss, 1, 1), u = view_of(&unit, 1, 1);
  EXPECT_THROW(normalized_mse(l, {}, x, view_of(a.data(), 4, 3), u, 1, ctx), Error);
  EXPECT_THROW(normalized_mse(l, view_of(a.data(), 2, 4), x, x, u, 1, ctx), Error);
  EXPECT_THROW(normalized_mse(l, {}, x, x, x, 1, ctx), Error);
  EXPECT_THROW(sum_squares(x, x, ctx), Error);
}

}  // namespace
}  // namespace tangram
