#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

struct Case {
  int64_t N, C;
  DType dtype;
};

class AddTest : public testing::TestWithParam<Case> {};

// Oracle: one f32 addition and one rounding an element, exactly.
TEST_P(AddTest, IsTheRoundedSum) {
  const auto [N, C, dtype] = GetParam();
  Context ctx({.threads = 2});
  Arena arena(1 << 20);
  const Tensor a = random_tensor(arena, N, C, dtype, 1), b = random_tensor(arena, N, C, dtype, 2);
  const Tensor y = strided_tensor(arena, N, C, dtype), expected = strided_tensor(arena, N, C, dtype);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t c = 0; c < C; ++c) set(expected, n, c, float(get(a, n, c)) + float(get(b, n, c)));
  add(y, a, b, ctx);
  EXPECT_TRUE(same_bytes(y, expected) && gaps_intact(y));
  const Tensor first = clone(arena, a), second = clone(arena, b);
  add(first, first, b, ctx);
  add(second, a, second, ctx);
  EXPECT_TRUE(same_bytes(first, expected) && same_bytes(second, expected));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AddTest,
                         testing::Values(Case{0, 4, DType::f32}, Case{1, 1, DType::f32}, Case{5, 33, DType::f32},
                                         Case{4, 64, DType::bf16}, Case{3, 19, DType::bf16}));

TEST(Add, RefusesWhatDisagrees) {
  Context ctx({.threads = 1});
  Arena arena(1 << 12);
  const Tensor x = arena.tensor(2, 4, DType::f32), wide = arena.tensor(2, 5, DType::f32);
  const Tensor half = arena.tensor(2, 4, DType::bf16);
  EXPECT_THROW(add(x, x, wide, ctx), Error);
  EXPECT_THROW(add(x, half, x, ctx), Error);
  EXPECT_THROW(add(wide, x, x, ctx), Error);
}

}  // namespace
}  // namespace tangram
