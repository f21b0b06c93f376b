#include "kernels/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

struct Case {
  int64_t N, V, H;
  DType dtype;
  int threads;
};

class EmbeddingTest : public testing::TestWithParam<Case> {
 protected:
  const Case p = GetParam();
  Context ctx{{.threads = p.threads}};
  Arena arena{1 << 22};
  std::vector<int32_t> tokens;

  void SetUp() override {  // with repetitions
    for (int64_t n = 0; n < p.N; ++n) tokens.push_back(int32_t(random_below(uint64_t(p.V), 5, 0, uint64_t(n))));
  }
};

TEST_P(EmbeddingTest, ForwardCopiesRows) {
  const Tensor table = random_tensor(arena, p.V, p.H, p.dtype, 1), y = strided_tensor(arena, p.N, p.H, p.dtype);
  embedding_forward(y, table, tokens, ctx);
  for (int64_t n = 0; n < p.N; ++n) EXPECT_TRUE(same_bytes(y.row_range(n, 1), table.row_range(tokens[n], 1))) << n;
  EXPECT_TRUE(gaps_intact(y));
}

// Oracle: the same sums one after the other, in the same order, so bit for bit.
TEST_P(EmbeddingTest, BackwardAddsRows) {
  const Tensor dy = random_tensor(arena, p.N, p.H, p.dtype, 2);
  const Tensor dtable = clone(arena, random_tensor(arena, p.V, p.H, DType::f32, 3));
  const Tensor expected = clone(arena, dtable);
  for (int64_t n = 0; n < p.N; ++n)
    for (int64_t h = 0; h < p.H; ++h) expected.row<float>(tokens[n])[h] += float(get(dy, n, h));
  embedding_backward(dtable, dy, tokens, ctx);
  EXPECT_TRUE(same_bytes(dtable, expected) && gaps_intact(dtable));
}

INSTANTIATE_TEST_SUITE_P(Shapes, EmbeddingTest,
                         testing::Values(Case{0, 4, 8, DType::f32, 2}, Case{3, 1, 1, DType::f32, 3},
                                         Case{50, 7, 33, DType::f32, 2}, Case{50, 7, 100, DType::bf16, 3},
                                         Case{9, 100, 64, DType::bf16, 1}));

TEST(Embedding, RefusesTokensOutsideTheVocabulary) {
  Context ctx({.threads = 1});
  Arena arena(1 << 12);
  const Tensor table = arena.tensor(5, 4, DType::f32), y = arena.tensor(3, 4, DType::f32);
  const std::vector<int32_t> beyond = {0, 4, 5}, negative = {0, -1, 1}, two = {0, 1};
  try {
    embedding_forward(y, table, beyond, ctx);
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_EQ(e.failure, Failure::bad_input);
    EXPECT_STREQ(e.what(), "token 5 at position 2: the vocabulary has 5");
  }
  EXPECT_THROW(embedding_forward(y, table, negative, ctx), Error);
  EXPECT_THROW(embedding_backward(table, y, beyond, ctx), Error);
  EXPECT_THROW(embedding_backward(table, y, negative, ctx), Error);
  EXPECT_THROW(embedding_forward(y, table, two, ctx), Error);
  EXPECT_THROW(embedding_backward(table, y, two, ctx), Error);
  EXPECT_THROW(embedding_backward(arena.tensor(5, 4, DType::bf16), y, std::vector<int32_t>{0, 1, 2}, ctx), Error);
}

}  // namespace
}  // namespace tangram
