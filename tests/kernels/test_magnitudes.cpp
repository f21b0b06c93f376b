#include "kernels/magnitudes.h"

#include <gtest/gtest.h>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

TEST(Magnitudes, ByHand) {
  Context ctx({.threads = 2});
  float x[] = {1, -2, 3, -4, 5, -6}, sum[] = {10, 20, 30};
  add_column_magnitudes(view_of(sum, 1, 3), view_of(x, 2, 3), ctx);
  EXPECT_EQ(sum[0], 15);
  EXPECT_EQ(sum[1], 27);
  EXPECT_EQ(sum[2], 39);
}

// Each sum in the order of the rows, so bit for bit.
TEST(Magnitudes, TheSameBytesOnAnyNumberOfThreads) {
  Arena arena(1 << 20);
  const Tensor x = random_tensor(arena, 50, 77, DType::bf16, 1), start = random_tensor(arena, 1, 77, DType::f32, 2);
  const Tensor expected = clone(arena, start);
  for (int64_t n = 0; n < x.rows; ++n)
    for (int64_t c = 0; c < x.cols; ++c) expected.as<float>()[c] += std::abs(float(get(x, n, c)));
  for (const int threads : {1, 2, 5}) {
    Context ctx({.threads = threads});
    const Tensor sum = clone(arena, start);
    add_column_magnitudes(sum, x, ctx);
    EXPECT_TRUE(same_bytes(sum, expected) && gaps_intact(sum)) << threads;
  }
}

TEST(Magnitudes, RefusesBadInput) {
  Context ctx({.threads = 1});
  Arena arena(1 << 12);
  const Tensor x = arena.tensor(2, 3, DType::bf16);
  EXPECT_THROW(add_column_magnitudes(arena.tensor(1, 2, DType::f32), x, ctx), Error);
  EXPECT_THROW(add_column_magnitudes(arena.tensor(1, 3, DType::bf16), x, ctx), Error);
}

}  // namespace
}  // namespace tangram
