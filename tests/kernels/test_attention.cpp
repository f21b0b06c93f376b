#include <gmock/gmock.h>

#include "tests/kernels/attention_step.h"

namespace tangram {
namespace {

// Oracle: central differences of the loss. It checks the reference that the kernels are held to.
TEST(AttentionReferenceTest, BackwardMatchesFiniteDifferences) {
  Arena arena(1 << 22);
  const Step step({{.heads = 4, .kv_heads = 2, .head_dim = 3, .window = 4}, {7}}, arena);
  AttentionReference r = step.reference(0);
  const auto check = [&](Matrix& x, const Matrix& dx) {
    for (size_t i = 0; i < x.values.size(); ++i) {
      const double before = x.values[i], expected = dx.values[i], h = 1e-5;
      x.values[i] = before + h;
      const double above = r.loss();
      x.values[i] = before - h;
      const double slope = (above - r.loss()) / (2 * h);
      x.values[i] = before;
      EXPECT_NEAR(slope, expected, 1e-8);  // h^2 from the third derivative, 1e-16 / h from rounding
    }
  };
  const Matrix dq = r.dq, dk = r.dk, dv = r.dv;
  check(r.q, dq), check(r.k, dk), check(r.v, dv);
}

class AttentionTest : public testing::TestWithParam<Case> {
 protected:
  const Case p = GetParam();
  Context ctx{{.threads = 2}};
  Arena arena{1 << 26};
};

// Oracle: the definition in f64. q, k, v and all results are columns of wider matrices.
TEST_P(AttentionTest, MatchesF64) {
  Step step(p, arena);
  step.run(ctx);
  step.expect_near_f64();
  for (const Tensor& x : {step.out, step.lse, step.dq, step.dk, step.dv}) EXPECT_TRUE(gaps_intact(x));
  EXPECT_EQ(ctx.scratch.used_bytes(), 0);
}

// Oracle: the same call on each sequence alone, and with other numbers of threads, bit for bit.
TEST_P(AttentionTest, SequenceDependsNeitherOnOthersNorOnThreads) {
  Step step(p, arena);
  step.run(ctx);
  for (const int threads : {1, 3}) {
    Context other({.threads = threads});
    Step again(p, arena);
    for (size_t s = 0; s < p.lengths.size(); ++s) again.sequence(s).run(other);
    EXPECT_TRUE(same_bytes(step.out, again.out) && same_bytes(step.lse, again.lse));
    EXPECT_TRUE(same_bytes(step.dq, again.dq) && same_bytes(step.dk, again.dk) && same_bytes(step.dv, again.dv));
  }
}

// Oracle: attention_forward on the whole sequences, bit for bit: a query's result does not depend on the later ones.
TEST_P(AttentionTest, CachedInChunksEqualsForward) {
  Step step(p, arena);
  step.run(ctx);
  for (const auto& [page_tokens, chunk] : {std::pair<int64_t, int64_t>{16, 1 << 20}, {5, 37}, {1000, 1}}) {
    if (chunk == 1 && step.q.rows > 200) continue;  // token by token takes long
    Cache cache(p, page_tokens, arena);
    std::vector<int32_t> past(p.lengths.size(), 0);
    const Tensor out = clone(arena, step.out);
    fill_zero(out);
    for (bool more = true; more;) {
      more = false;
      std::vector<int32_t> offsets{0};
      std::vector<int64_t> rows;  // of the packed batch, in this chunk
      for (size_t s = 0; s < p.lengths.size(); ++s) {
        const int64_t count = std::min(chunk, p.lengths[s] - past[s]);
        for (int64_t i = 0; i < count; ++i) rows.push_back(step.offsets[s] + past[s] + i);
        offsets.push_back(int32_t(rows.size()));
      }
      const int64_t N = int64_t(rows.size());
      const ArenaScope scope(arena);
      const Tensor q = strided_tensor(arena, N, step.q.cols, p.dtype),
                   k = strided_tensor(arena, N, step.k.cols, p.dtype);
      const Tensor v = strided_tensor(arena, N, step.k.cols, p.dtype),
                   o = strided_tensor(arena, N, step.q.cols, p.dtype);
      for (int64_t i = 0; i < N; ++i) {
        copy(q.row_range(i, 1), step.q.row_range(rows[i], 1));
        copy(k.row_range(i, 1), step.k.row_range(rows[i], 1)), copy(v.row_range(i, 1), step.v.row_range(rows[i], 1));
      }
      kv_write(cache.pages, k, v, cache.page_table(), offsets, past, ctx);
      attention_cached(o, q, cache.pages, cache.page_table(), p.shape, offsets, past, ctx);
      EXPECT_TRUE(gaps_intact(o) && gaps_intact(cache.pages.keys) && gaps_intact(cache.pages.values));
      for (int64_t i = 0; i < N; ++i) copy(out.row_range(rows[i], 1), o.row_range(i, 1));
      for (size_t s = 0; s < p.lengths.size(); ++s) {
        past[s] += offsets[s + 1] - offsets[s];
        more |= past[s] < p.lengths[s];
      }
    }
    EXPECT_TRUE(same_bytes(out, step.out)) << "pages of " << page_tokens << ", chunks of " << chunk;
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t group = 1; group <= 8; ++group)  // and odd sizes of everything else
    all.push_back({{group * 2, 2, 4 + group, group == 3 ? 5 : kNoWindow}, {1, 0, 2 * group + 9, 33}});
  for (const DType dtype : {DType::f32, DType::bf16}) {
    all.push_back({{4, 4, 64}, {40, 1, 131}, dtype});
    all.push_back({{8, 2, 64, 1}, {20}, dtype});
    all.push_back({{8, 2, 64, 100}, {300}, dtype});
    all.push_back({{2, 1, 8, 130}, {0, 600, 3}, dtype});
    all.push_back({{3, 1, 17}, {530}, dtype});
    all.push_back({{4, 2, 1}, {19, 5}, dtype});
    all.push_back({{100, 1, 16}, {9}, dtype});
    all.push_back({{6, 3, 10}, {50, 21}, dtype});
    all.push_back({{4, 2, 24}, {0}, dtype});
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest, testing::ValuesIn(cases()));

// Hand value: a score of 1e4 beside zeros takes all the weight, without overflow.
TEST(AttentionTest, LargeScoresDoNotOverflow) {
  Context ctx({.threads = 1});
  std::vector<float> q{0, 1e4f}, k{1, 0}, v{3, 5}, out(2), lse(2);
  const std::vector<int32_t> offsets{0, 2};
  attention_forward(view_of(out.data(), 2, 1), view_of(lse.data(), 2, 1), view_of(q.data(), 2, 1),
                    view_of(k.data(), 2, 1), view_of(v.data(), 2, 1), {1, 1, 1}, offsets, ctx);
  EXPECT_EQ(out, (std::vector<float>{3, 3}));
  EXPECT_EQ(lse, (std::vector<float>{0, 1e4f}));
}

TEST(AttentionTest, RefusesWhatDoesNotFit) {
  Context ctx;
  Arena arena(1 << 22);
  Step step({{4, 2, 8}, {3, 2}}, arena);
  const auto refused = [&](auto change, const char* message) {
    Step bad = step;
    change(bad);
    EXPECT_THAT([&] { bad.run(ctx); }, testing::ThrowsMessage<Error>(testing::HasSubstr(message)));
  };
  refused([](Step& s) { s.shape.kv_heads = 3; }, "4 query heads over 3 key/value heads");
  refused([](Step& s) { s.shape.kv_heads = 0; }, "over 0 key/value heads");
  refused([](Step& s) { s.shape.window = 0; }, "window 0");
  refused([](Step& s) { s.shape.head_dim = 7; }, "q is (5, 32), must be (5, 4 * 7)");
  refused([](Step& s) { s.k = s.k.row_range(0, 4); }, "k is (4, 16), must be (5, 2 * 8)");
  refused([](Step& s) { s.v.dtype = DType::bf16; }, "v is bf16");
  refused([](Step& s) { s.lse = s.lse.col_range(0, 3); }, "lse is (5, 3)");
  refused([](Step& s) { s.offsets = {0, 3, 6}; }, "offsets must run from 0 to 5");
  refused([](Step& s) { s.offsets = {0, 4, 3, 5}; }, "offsets fall from 4 to 3");
  refused([](Step& s) { s.offsets.clear(); }, "offsets must run from 0 to 5");
}

TEST(AttentionTest, RefusesPagesThatAreNotThere) {
  Context ctx;
  Arena arena(1 << 22);
  const Case c{{4, 2, 8}, {3, 2}};
  const Step step(c, arena);
  const auto refused = [&](auto change, const char* message) {
    Cache cache(c, 2, arena);
    std::vector<int32_t> past{0, 0};
    change(cache, past);
    const auto write = [&] { kv_write(cache.pages, step.k, step.v, cache.page_table(), step.offsets, past, ctx); };
    const auto read = [&] {
      attention_cached(step.out, step.q, cache.pages, cache.page_table(), c.shape, step.offsets, past, ctx);
    };
    EXPECT_THAT(write, testing::ThrowsMessage<Error>(testing::HasSubstr(message)));
    EXPECT_THAT(read, testing::ThrowsMessage<Error>(testing::HasSubstr(message)));
  };
  refused([](Cache& cache, auto&) { cache.table[1] = 7; }, "sequence 0 uses page 7 of 7");
  refused([](Cache& cache, auto&) { cache.table[3] = -1; }, "sequence 1 uses page -1 of 7");
  refused([](Cache&, auto& past) { past[1] = 5; }, "sequence 1 has 5 + 2 tokens; its 3 pages hold 6");
  refused([](Cache&, auto& past) { past[0] = -1; }, "sequence 0 has -1 + 3 tokens");
  refused([](Cache&, auto& past) { past.pop_back(); }, "3 offsets for 1 sequences");
  refused([](Cache& cache, auto&) { cache.table.pop_back(); }, "5 pages for 2 sequences of 3");
  refused([](Cache& cache, auto&) { cache.pages.page_tokens = 0; }, "pages of 0 tokens");
}

}  // namespace
}  // namespace tangram
