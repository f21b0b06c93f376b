#include "kernels/clip.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

Tensor random_flat(Arena& arena, int64_t rows, int64_t cols, uint64_t seed) {
  const Tensor x = arena.tensor(rows, cols, DType::f32);
  for (int64_t i = 0; i < x.size(); ++i) x.as<float>()[i] = float(random_normal(seed, 0, uint64_t(i)));
  return x;
}

// Oracle: a sum in extended precision. The f64 sum of n squares is off by less than n 2^-53.
TEST(GradientNorm, MatchesExtendedPrecision) {
  Context ctx({.threads = 2});
  Arena arena(1 << 20);
  const std::vector<Tensor> grads = {random_flat(arena, 1, 30001, 1), random_flat(arena, 0, 3, 2),
                                     random_flat(arena, 7, 5, 3), random_flat(arena, 2, 8192, 4)};
  long double sum = 0;
  for (const Tensor& g : grads)
    for (int64_t i = 0; i < g.size(); ++i) sum += (long double)(g.as<float>()[i]) * g.as<float>()[i];
  const double expected = double(std::sqrt(sum));
  const double norm = gradient_norm(grads, ctx);
  EXPECT_NEAR(norm, expected, 50000 * 0x1p-53 * expected);
  for (const int threads : {1, 3}) {
    Context other({.threads = threads});
    EXPECT_EQ(gradient_norm(grads, other), norm) << threads;
  }
  EXPECT_EQ(gradient_norm({}, ctx), 0);
}

TEST(GradientNorm, OfGroups) {
  Context ctx({.threads = 2});
  Arena arena(1 << 20);
  const std::vector<Tensor> a = {random_flat(arena, 1, 30001, 1), random_flat(arena, 7, 5, 3)}, b = {a[1]};
  const std::vector<std::vector<Tensor>> groups = {a, {}, b};
  EXPECT_EQ(gradient_norms(groups, ctx), (std::vector<double>{gradient_norm(a, ctx), 0, gradient_norm(b, ctx)}));
}

TEST(GradientNorm, IsFiniteExactlyIfTheGradientIs) {
  Context ctx({.threads = 2});
  Arena arena(1 << 20);
  const std::vector<Tensor> grads = {random_flat(arena, 1, 9000, 1), random_flat(arena, 1, 10, 2)};
  float& slot = grads[0].as<float>()[8999];
  slot = 3e38f;
  EXPECT_NEAR(gradient_norm(grads, ctx), 3e38, 1e32);
  slot = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(std::isfinite(gradient_norm(grads, ctx)));
  slot = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(gradient_norm(grads, ctx)));
}

TEST(ClipFactor, ByHand) {
  EXPECT_EQ(clip_factor(5, 1), 0.2);
  EXPECT_EQ(clip_factor(0.5, 1), 1);
  EXPECT_EQ(clip_factor(0, 1), 1);
  EXPECT_EQ(clip_factor(5, std::numeric_limits<double>::infinity()), 1);
}

TEST(Clip, RefusesBadInput) {
  Context ctx({.threads = 1});
  Arena arena(1 << 12);
  EXPECT_THROW(gradient_norm({{arena.tensor(1, 4, DType::bf16)}}, ctx), Error);
  EXPECT_THROW(gradient_norm({{arena.tensor(2, 4, DType::f32).col_range(0, 3)}}, ctx), Error);
  EXPECT_THROW(clip_factor(1, 0), Error);
  EXPECT_THROW(clip_factor(1, std::nan("")), Error);
  EXPECT_THROW(clip_factor(std::numeric_limits<double>::infinity(), 1), Error);
  EXPECT_THROW(clip_factor(std::nan(""), 1), Error);
}

}  // namespace
}  // namespace tangram
