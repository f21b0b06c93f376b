#include "kernels/greedy.h"

#include <gtest/gtest.h>

#include <limits>

#include "kernels/sampling.h"
#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

struct Step {
  std::vector<int32_t> ids, past;
  std::vector<float> best;
};

Step step(Tensor logits) {
  Context ctx;
  const auto S = static_cast<size_t>(logits.rows);
  Step s{std::vector<int32_t>(S, -1), std::vector<int32_t>(S, 6), std::vector<float>(S)};
  greedy_step(view_of(s.ids.data(), 1, logits.rows), view_of(s.best.data(), 1, logits.rows),
              view_of(s.past.data(), 1, logits.rows), logits, ctx);
  return s;
}

TEST(GreedyTest, IsSamplingAtTemperatureZero) {
  Arena arena(1 << 20);
  const Tensor logits = random_tensor(arena, 5, 77, DType::f32, 1);
  set(logits, 2, 3, 9), set(logits, 2, 70, 9);  // a tie
  set(logits, 3, 0, -kInf);
  const Step s = step(logits);
  for (int64_t n = 0; n < 5; ++n) {
    EXPECT_EQ(s.ids[size_t(n)], sample_token(logits.row_range(n, 1), {.temperature = 0}, 0)) << n;
    EXPECT_EQ(s.best[size_t(n)], logits.row<float>(n)[s.ids[size_t(n)]]);
    EXPECT_EQ(s.past[size_t(n)], 7);
  }
}

TEST(GreedyTest, ShowsWhereThereIsNoToken) {
  const float values[] = {1, kNan, kInf, 1, kInf, kNan, -kInf, -kInf, -kInf};
  const Step s = step(view_of(values, 3, 3));
  EXPECT_TRUE(std::isnan(s.best[0]));
  EXPECT_EQ(s.best[1], kInf);
  EXPECT_EQ(s.best[2], -kInf);
  EXPECT_EQ(s.ids, (std::vector<int32_t>{1, 1, 0}));
}

TEST(GreedyTest, RefusesOtherShapes) {
  Context ctx;
  Arena arena(1 << 16);
  const auto ids = [&](int64_t count, DType dtype = DType::i32) { return arena.tensor(1, count, dtype); };
  const Tensor logits = arena.tensor(2, 5, DType::f32), best = arena.tensor(1, 2, DType::f32);
  EXPECT_THROW(greedy_step(ids(3), best, ids(2), logits, ctx), Error);
  EXPECT_THROW(greedy_step(ids(2), best, ids(2, DType::f32), logits, ctx), Error);
  EXPECT_THROW(greedy_step(ids(2), best, ids(2), arena.tensor(2, 0, DType::f32), ctx), Error);
}

}  // namespace
}  // namespace tangram
