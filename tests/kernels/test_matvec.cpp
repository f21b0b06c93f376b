#include "kernels/matvec.h"

#include <gtest/gtest.h>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

constexpr double kF32 = 0x1p-24;

struct Case {
  int64_t O, K;
  DType dtype, dtype_y;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    return out << c.O << "x" << c.K << " " << name_of(c.dtype) << " " << name_of(c.dtype_y);
  }
};

class MatvecTest : public testing::TestWithParam<Case> {
 protected:
  const Case p = GetParam();
  Context ctx{{.threads = 2}};
  Arena arena{1 << 25};
  const Tensor w = random_tensor(arena, p.O, p.K, p.dtype, 1);
};

// Oracle: f64; a sum of K products in f32, in 8 lanes, errs by less than K roundings of its terms' magnitudes.
TEST_P(MatvecTest, MatchesF64) {
  for (int64_t N = 1; N <= kMatvecRows; ++N)
    for (const bool accumulate : {false, true}) {
      const Tensor x = random_tensor(arena, N, p.K, p.dtype, 2), before = random_tensor(arena, N, p.O, p.dtype_y, 3);
      const Tensor y = clone(arena, before);
      matvec(y, x, w, accumulate, ctx);
      for (int64_t n = 0; n < N; ++n)
        for (int64_t o = 0; o < p.O; ++o) {
          double sum = accumulate ? get(before, n, o) : 0, magnitude = std::abs(sum);
          for (int64_t k = 0; k < p.K; ++k)
            sum += get(x, n, k) * get(w, o, k), magnitude += std::abs(get(x, n, k) * get(w, o, k));
          const double tolerance = double(p.K) * kF32 * magnitude + 1.01 * unit_roundoff(p.dtype_y) * std::abs(sum);
          ASSERT_NEAR(get(y, n, o), sum, tolerance) << n << " " << o << " of " << N;
        }
      EXPECT_TRUE(gaps_intact(y));
    }
}

// Oracle: the same call with one row, and with other numbers of threads, bit for bit.
TEST_P(MatvecTest, RowDependsNeitherOnOtherRowsNorOnThreads) {
  const Tensor x = random_tensor(arena, kMatvecRows, p.K, p.dtype, 2);
  for (int64_t N = 1; N <= kMatvecRows; ++N)
    for (const int threads : {1, 3}) {
      Context other({.threads = threads});
      const Tensor y = arena.tensor(N, p.O, p.dtype_y), alone = arena.tensor(1, p.O, p.dtype_y);
      matvec(y, x.row_range(0, N), w, false, other);
      matvec(alone, x.row_range(N - 1, 1), w, false, ctx);
      EXPECT_TRUE(same_bytes(y.row_range(N - 1, 1), alone)) << N << " rows, " << threads << " threads";
    }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [dtype, dtype_y] :
       {std::pair{DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}})
    for (const auto& [O, K] : {std::pair{1, 1}, {7, 15}, {9, 16}, {13, 24}, {50, 67}, {4, 512}, {301, 129}})
      all.push_back({O, K, dtype, dtype_y});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, MatvecTest, testing::ValuesIn(cases()));

TEST(MatvecTest, RefusesMoreRowsThanItsKernels) {
  Context ctx;
  Arena arena(1 << 20);
  const auto f32 = [&](int64_t rows, int64_t cols) { return arena.tensor(rows, cols, DType::f32); };
  EXPECT_THROW(matvec(f32(kMatvecRows + 1, 3), f32(kMatvecRows + 1, 4), f32(3, 4), false, ctx), Error);
}

}  // namespace
}  // namespace tangram
