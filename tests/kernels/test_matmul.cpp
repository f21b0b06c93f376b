#include "kernels/matmul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <omp.h>

#include <array>
#include <cstdlib>
#include <vector>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

constexpr double kF32 = 0x1p-24;

// c = a' b' in f64, and the sum of the terms' magnitudes, which bounds the rounding errors.
struct Sum {
  double value = 0, magnitude = 0;
};

Sum product_f64(Tensor a, Transpose transpose_a, Tensor b, Transpose transpose_b, int64_t m, int64_t n) {
  Sum sum;
  const int64_t K = transpose_a == Transpose::yes ? a.rows : a.cols;
  for (int64_t k = 0; k < K; ++k) {
    const double x = transpose_a == Transpose::yes ? get(a, k, m) : get(a, m, k);
    const double y = transpose_b == Transpose::yes ? get(b, n, k) : get(b, k, n);
    sum.value += x * y, sum.magnitude += std::abs(x * y);
  }
  return sum;
}

// Whether c equals a' b' + before, but for the rounding of K f32 additions and of one conversion to c's dtype.
bool near(Tensor c, Tensor a, Transpose transpose_a, Tensor b, Transpose transpose_b, const Tensor* before) {
  const double K = double(transpose_a == Transpose::yes ? a.rows : a.cols);
  for (int64_t m = 0; m < c.rows; ++m)
    for (int64_t n = 0; n < c.cols; ++n) {
      Sum sum = product_f64(a, transpose_a, b, transpose_b, m, n);
      const double added = before ? get(*before, m, n) : 0;
      sum.value += added, sum.magnitude += std::abs(added);
      const double tolerance = (K + 2) * kF32 * sum.magnitude + 1.01 * unit_roundoff(c.dtype) * std::abs(sum.value);
      if (std::abs(get(c, m, n) - sum.value) <= tolerance) continue;
      ADD_FAILURE() << "c[" << m << "," << n << "] = " << get(c, m, n) << ", expected " << sum.value;
      return false;
    }
  return true;
}

struct Case {
  int64_t M, N, K;
  DType dtype, dtype_c;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.M << "x" << c.N << "x" << c.K << " " << name_of(c.dtype) << " " << name_of(c.dtype_c);
  }
};

class MatmulTest : public testing::TestWithParam<Case> {};

// Oracle: the sum in f64. Operands and result are columns of wider matrices.
TEST_P(MatmulTest, AllFormsMatchF64) {
  const auto [M, N, K, dtype, dtype_c] = GetParam();
  Context ctx({.threads = 2});
  Arena arena(1 << 24);
  for (const auto transpose_a : {Transpose::no, Transpose::yes})
    for (const auto transpose_b : {Transpose::no, Transpose::yes})
      for (const bool accumulate : {false, true}) {
        const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
        const Tensor a = random_tensor(arena, ta ? K : M, ta ? M : K, dtype, 1);
        const Tensor b = random_tensor(arena, tb ? N : K, tb ? K : N, dtype, 2);
        const Tensor before = random_tensor(arena, M, N, dtype_c, 3), c = clone(arena, before);
        SCOPED_TRACE(testing::Message() << ta << tb << accumulate);
        matmul(c, a, transpose_a, b, transpose_b, accumulate, ctx);
        EXPECT_TRUE(near(c, a, transpose_a, b, transpose_b, accumulate ? &before : nullptr));
        EXPECT_TRUE(gaps_intact(c));
        const Tensor again = clone(arena, before);
        matmul(again, a, transpose_a, b, transpose_b, accumulate, ctx);
        EXPECT_TRUE(same_bytes(c, again));
      }
  EXPECT_EQ(ctx.matmul_calls, 16);
  EXPECT_EQ(ctx.matmul_flops, 16 * 2.0 * double(M * N * K));
  EXPECT_EQ(ctx.scratch.used_bytes(), 0);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [dtype, dtype_c] :
       {std::pair{DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}})
    for (const auto& [M, N, K] : {std::array{1, 1, 1},
                                  {1, 37, 65},
                                  {4, 9, 100},
                                  {5, 16, 33},
                                  {17, 1, 64},
                                  {33, 130, 70},
                                  {0, 3, 4},
                                  {3, 0, 4},
                                  {7, 3, 0},
                                  {2, 3, 0},
                                  {64, 64, 1}})
      all.push_back({M, N, K, dtype, dtype_c});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, MatmulTest, testing::ValuesIn(cases()));

// Oracle: the general product, whose forms are tested above.
TEST(MatmulTest, LinearLayerFormsAreTheirProducts) {
  Context ctx({.threads = 2});
  Arena arena(1 << 22);
  const int64_t N = 10, K = 24, O = 18;
  const Tensor x = random_tensor(arena, N, K, DType::f32, 1), w = random_tensor(arena, O, K, DType::f32, 2);
  const Tensor dy = random_tensor(arena, N, O, DType::f32, 3);
  const Tensor y = random_tensor(arena, N, O, DType::f32, 4), dx = random_tensor(arena, N, K, DType::f32, 5);
  const Tensor dw = random_tensor(arena, O, K, DType::f32, 6);
  const Tensor y0 = clone(arena, y), dx0 = clone(arena, dx), dw0 = clone(arena, dw);

  matmul_forward(y, x, w, ctx);
  matmul_backward_input(dx, dy, w, ctx);
  matmul_backward_weight(dw, dy, x, ctx);
  EXPECT_TRUE(near(y, x, Transpose::no, w, Transpose::yes, nullptr));
  EXPECT_TRUE(near(dx, dy, Transpose::no, w, Transpose::no, nullptr));
  EXPECT_TRUE(near(dw, dy, Transpose::yes, x, Transpose::no, &dw0));

  copy(y, y0), copy(dx, dx0), copy(dw, dw0);
  matmul_forward(y, x, w, ctx, true);
  matmul_backward_input(dx, dy, w, ctx, true);
  matmul_backward_weight(dw, dy, x, ctx, false);
  EXPECT_TRUE(near(y, x, Transpose::no, w, Transpose::yes, &y0));
  EXPECT_TRUE(near(dx, dy, Transpose::no, w, Transpose::no, &dx0));
  EXPECT_TRUE(near(dw, dy, Transpose::yes, x, Transpose::no, nullptr));
}

// Hand value: the caller's number of threads is as it was.
TEST(MatmulTest, ThreadsOfTheCallerStay) {
  const int before = omp_get_max_threads();
  Context ctx({.threads = before + 1});
  Arena arena(1 << 20);
  const Tensor a = random_tensor(arena, 8, 8, DType::f32, 1), c = arena.tensor(8, 8, DType::f32);
  matmul(c, a, Transpose::no, a, Transpose::no, false, ctx);
  EXPECT_EQ(omp_get_max_threads(), before);
}

TEST(MatmulTest, RefusesWhatDoesNotFit) {
  Context ctx;
  Arena arena(1 << 20);
  const auto f32 = [&](int64_t rows, int64_t cols) { return arena.tensor(rows, cols, DType::f32); };
  const auto bf = [&](int64_t rows, int64_t cols) { return arena.tensor(rows, cols, DType::bf16); };
  const auto product = [&](Tensor c, Tensor a, Tensor b) { matmul(c, a, Transpose::no, b, Transpose::no, false, ctx); };
  EXPECT_THAT([&] { product(f32(2, 3), f32(2, 4), f32(5, 3)); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("c (2, 3) = a' (2, 4) b' (5, 3)")));
  EXPECT_THROW(product(f32(3, 3), f32(2, 4), f32(4, 3)), Error);
  EXPECT_THROW(product(f32(2, 3), f32(2, 4), bf(4, 3)), Error);
  EXPECT_THROW(product(bf(2, 3), f32(2, 4), f32(4, 3)), Error);
  EXPECT_THROW(product(f32(2, 3), arena.tensor(2, 4, DType::i32), arena.tensor(4, 3, DType::i32)), Error);
}

// Oracle: f64, on a machine that oneDNN is told has no AVX-512, so that bf16 goes through f32 copies.
bool products_without_avx512() {
  setenv("ONEDNN_MAX_CPU_ISA", "AVX2", 1);
  Context ctx({.threads = 2});
  Arena arena(1 << 22);
  const Tensor a = random_tensor(arena, 17, 33, DType::bf16, 1), b = random_tensor(arena, 9, 33, DType::bf16, 2);
  bool good = true;
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const bool accumulate : {false, true}) {
      const Tensor before = random_tensor(arena, 17, 9, dtype, 3), c = clone(arena, before);
      matmul(c, a, Transpose::no, b, Transpose::yes, accumulate, ctx);
      good = near(c, a, Transpose::no, b, Transpose::yes, accumulate ? &before : nullptr) && good;
    }
  return good;
}

TEST(MatmulDeathTest, Bf16WorksWithoutAvx512) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // a process of its own: oneDNN reads the variable once
  EXPECT_EXIT(std::exit(products_without_avx512() ? 0 : 1), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace tangram
