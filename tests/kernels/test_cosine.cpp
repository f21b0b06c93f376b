#include "kernels/cosine.h"

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

std::vector<double> row_of(Tensor x, int64_t n) {
  std::vector<double> row(x.cols);
  for (int64_t h = 0; h < x.cols; ++h) row[h] = at(x, n, h);
  return row;
}

double distance(const std::vector<double>& x, const std::vector<double>& y) {
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < x.size(); ++i) xx += x[i] * x[i], yy += y[i] * y[i], xy += x[i] * y[i];
  return 1 - xy / std::sqrt(xx) / std::sqrt(yy);
}

class CosineTest : public testing::TestWithParam<Case> {};

// Oracle: the f64 loss and its central differences.
TEST_P(CosineTest, LossAndGradientMatchFiniteDifferences) {
  const auto [N, H, student, teacher] = GetParam();
  Context ctx({.threads = 2});
  Arena arena(1 << 20);
  std::mt19937 rng(1);
  const Tensor wide = random_tensor(arena, N, H + 3, student, rng), y = random_tensor(arena, N, H, teacher, rng);
  const Tensor x = wide.col_range(2, H), loss = arena.tensor(1, N, DType::f32);
  const Tensor dx = random_tensor(arena, N, H, student, rng), before = arena.tensor(N, H, student);
  copy(before, dx);
  cosine_forward(loss, x, y, ctx);
  const float scale = 0.7f;
  cosine_backward(dx, x, y, scale, ctx);
  for (int64_t n = 0; n < N; ++n) {
    std::vector<double> xn = row_of(x, n);
    const std::vector<double> yn = row_of(y, n);
    EXPECT_NEAR(loss.as<float>()[n], distance(xn, yn), 2 * 0x1p-24 + 1e-15);  // f64 sums, rounded once; loss <= 2
    for (int64_t h = 0; h < H; ++h) {
      const double step = 1e-5, kept = xn[h];
      xn[h] = kept + step;
      const double above = distance(xn, yn);
      xn[h] = kept - step;
      const double expected = at(before, n, h) + scale * (above - distance(xn, yn)) / (2 * step);
      xn[h] = kept;
      // 1e-9: error of the differences; 4 roundings of terms below 2 in f32; one rounding of the result to T
      EXPECT_NEAR(at(dx, n, h), expected, 1e-9 + 8 * 0x1p-24 + unit_roundoff(student) * std::abs(expected));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CosineTest,
                         testing::Values(Case{1, 7, DType::f32, DType::f32}, Case{5, 64, DType::f32, DType::f32},
                                         Case{5, 64, DType::bf16, DType::f32}, Case{3, 33, DType::bf16, DType::bf16},
                                         Case{0, 8, DType::f32, DType::bf16}));

TEST(Cosine, HandValues) {
  Context ctx({.threads = 1});
  const std::vector<float> x = {3, 4, 1, 0, 2, 2}, y = {3, 4, 0, 5, -1, -1};
  std::vector<float> loss(3);
  cosine_forward(view_of(loss.data(), 1, 3), view_of(x.data(), 3, 2), view_of(y.data(), 3, 2), ctx);
  EXPECT_EQ(loss, (std::vector<float>{0, 1, 2}));  // same, orthogonal, opposite
}

TEST(Cosine, VectorsWithoutDirectionAndHugeOnes) {
  Context ctx({.threads = 1});
  const std::vector<float> x = {0, 0, 1, 2, 0, 0, 1e30f, 1e30f}, y = {1, 2, 0, 0, 0, 0, 1e30f, 0};
  std::vector<float> loss(4), dx(8, 0.5f);
  cosine_forward(view_of(loss.data(), 1, 4), view_of(x.data(), 4, 2), view_of(y.data(), 4, 2), ctx);
  cosine_backward(view_of(dx.data(), 4, 2), view_of(x.data(), 4, 2), view_of(y.data(), 4, 2), 1, ctx);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(loss[i], 1);
  EXPECT_FLOAT_EQ(loss[3], 1 - std::sqrt(0.5f));
  EXPECT_EQ(dx, std::vector<float>(8, 0.5f));
}

TEST(Cosine, RefusesDisagreeingShapes) {
  Context ctx({.threads = 1});
  std::vector<float> a(12), loss(4);
  const Tensor x = view_of(a.data(), 3, 4);
  EXPECT_THROW(cosine_forward(view_of(loss.data(), 1, 4), x, x, ctx), Error);
  EXPECT_THROW(cosine_forward(view_of(loss.data(), 1, 3), x, view_of(a.data(), 4, 3), ctx), Error);
  EXPECT_THROW(cosine_backward(view_of(a.data(), 2, 4), x, x, 1, ctx), Error);
}

}  // namespace
}  // namespace tangram
