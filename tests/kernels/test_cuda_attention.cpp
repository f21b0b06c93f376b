#include "kernels/cuda_devices.h"
#include "kernels/rope.h"
#include "kernels/transfer.h"
#include "tests/kernels/attention_step.h"

namespace tangram {
namespace {

struct CudaCase {
  Case c;
  bool aligned;  // rows that 16-byte accesses can take, or columns of a wider matrix that starts at an odd place
  friend std::ostream& operator<<(std::ostream& out, const CudaCase& x) {
    return out << x.c << (x.aligned ? " aligned" : " with gaps");
  }
};

class CudaAttention : public testing::TestWithParam<CudaCase> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = 1 << 29});
    memory = std::make_unique<Arena>(1 << 27, Device::cuda);
  }

  // A strided_tensor's place on the GPU, with its values, and with its gaps unless it is to be aligned.
  Tensor upload(Tensor x) {
    if (p.aligned) {
      const Tensor y = memory->tensor(x.rows, x.cols, x.dtype);
      return transfer(y, x, *gpu), y;
    }
    const Tensor wide = memory->tensor(x.rows, x.cols + 3, x.dtype);
    transfer(wide, whole(x), *gpu);
    return wide.col_range(1, x.cols);
  }
  // Into a strided_tensor, whose gaps become those on the GPU.
  void download(Tensor to, Tensor from) {
    if (p.aligned)
      transfer(to, from, *gpu);
    else
      transfer(whole(to), whole(from), *gpu);
  }
  static Tensor whole(Tensor x) {
    x.data = static_cast<char*>(x.data) - size_of(x.dtype), x.cols += 3;
    return x;
  }
  Indices upload(const std::vector<int32_t>& list, bool host_knows) {
    const Indices sent = send(list, *memory, *gpu);
    if (host_knows) return sent;
    const Tensor copy = memory->tensor(1, std::ssize(list), DType::i32);
    transfer(copy, view_of(list.data(), 1, std::ssize(list)), *gpu);
    return {std::span<const int32_t>(), copy};
  }

  // step.run on the GPU. Results were poison before.
  void run_on_gpu(Step& step, bool host_knows) {
    const ArenaScope scope(*memory);
    Step there = step;
    for (Tensor* x :
         {&there.q, &there.k, &there.v, &there.dout, &there.out, &there.lse, &there.dq, &there.dk, &there.dv})
      *x = upload(*x);
    const Indices offsets = upload(step.offsets, host_knows);
    attention_forward(there.out, there.lse, there.q, there.k, there.v, step.shape, offsets, *gpu);
    attention_backward(there.dq, there.dk, there.dv, there.dout, there.out, there.lse, there.q, there.k, there.v,
                       step.shape, offsets, *gpu);
    download(step.out, there.out), download(step.lse, there.lse);
    download(step.dq, there.dq), download(step.dk, there.dk), download(step.dv, there.dv);
    EXPECT_EQ(gpu->scratch.used_bytes(), 0);
  }

  const CudaCase p = GetParam();
  std::unique_ptr<Context> gpu;
  std::unique_ptr<Arena> memory;
  Arena arena{1 << 26};
};

// Oracle: the definition in f64, with the CPU's tolerances.
TEST_P(CudaAttention, MatchesF64) {
  Step step(p.c, arena);
  run_on_gpu(step, true);
  step.expect_near_f64();
  for (const Tensor& x : {step.out, step.lse, step.dq, step.dk, step.dv}) EXPECT_TRUE(gaps_intact(x));
}

// Oracle: each sequence alone, bit for bit, where only the GPU knows the offsets: cuDNN has other kernels for each
// shape.
TEST_P(CudaAttention, SequenceDoesNotDependOnOthers) {
  Step step(p.c, arena), again(p.c, arena);
  run_on_gpu(step, false);
  for (size_t s = 0; s < p.c.lengths.size(); ++s) {
    Step one = again.sequence(s);
    run_on_gpu(one, false);
  }
  EXPECT_TRUE(same_bytes(step.out, again.out) && same_bytes(step.lse, again.lse));
  EXPECT_TRUE(same_bytes(step.dq, again.dq) && same_bytes(step.dk, again.dk) && same_bytes(step.dv, again.dv));
}

// Oracle: the same call again, bit for bit.
TEST_P(CudaAttention, RepeatsItsBits) {
  if (p.c.dtype == DType::f32 || !p.aligned) return;  // which cuDNN does not serve: the test above has them
  Step step(p.c, arena), again(p.c, arena);
  run_on_gpu(step, true), run_on_gpu(again, true);
  EXPECT_TRUE(same_bytes(step.out, again.out) && same_bytes(step.lse, again.lse));
  EXPECT_TRUE(same_bytes(step.dq, again.dq) && same_bytes(step.dk, again.dk) && same_bytes(step.dv, again.dv));
}

// Oracle: the definition in f64 on the whole sequences, whatever the pages, the chunks and the parts of the keys.
TEST_P(CudaAttention, CachedInChunksMatchesF64) {
  Step step(p.c, arena);
  for (const auto& [page_tokens, chunk, host_knows] :
       {std::tuple<int64_t, int64_t, bool>{16, 1 << 20, true}, {5, 37, false}, {1000, 7, true}}) {
    const ArenaScope scope(*memory);
    Cache cache(p.c, page_tokens, arena);
    KvPages pages{upload(cache.pages.keys), upload(cache.pages.values), page_tokens};
    std::vector<int32_t> past(p.c.lengths.size(), 0);
    fill_zero(step.out);
    for (bool more = true; more;) {
      more = false;
      std::vector<int32_t> offsets{0};
      std::vector<int64_t> rows;  // of the packed batch, in this chunk
      for (size_t s = 0; s < past.size(); ++s) {
        const int64_t count = std::min(chunk, p.c.lengths[s] - past[s]);
        for (int64_t i = 0; i < count; ++i) rows.push_back(step.offsets[s] + past[s] + i);
        offsets.push_back(int32_t(rows.size()));
      }
      const ArenaScope chunk_scope(*memory), host_scope(arena);
      const auto rows_on_gpu = [&](Tensor x) {
        const Tensor y = strided_tensor(arena, std::ssize(rows), x.cols, x.dtype);
        for (size_t i = 0; i < rows.size(); ++i) copy(y.row_range(int64_t(i), 1), x.row_range(rows[i], 1));
        return upload(y);
      };
      const Tensor q = rows_on_gpu(step.q), out = rows_on_gpu(step.out);
      const Indices on_gpu[] = {upload(offsets, host_knows), upload(past, host_knows), upload(cache.table, host_knows)};
      const PageTable table{on_gpu[2], cache.pages_per_sequence};
      kv_write(pages, rows_on_gpu(step.k), rows_on_gpu(step.v), table, on_gpu[0], on_gpu[1], *gpu);
      attention_cached(out, q, pages, table, p.c.shape, on_gpu[0], on_gpu[1], *gpu);
      const Tensor o = strided_tensor(arena, out.rows, out.cols, out.dtype);
      download(o, out);
      EXPECT_TRUE(gaps_intact(o));
      for (size_t i = 0; i < rows.size(); ++i) copy(step.out.row_range(rows[i], 1), o.row_range(int64_t(i), 1));
      for (size_t s = 0; s < past.size(); ++s) {
        past[s] += offsets[s + 1] - offsets[s];
        more |= past[s] < p.c.lengths[s];
      }
    }
    step.expect_out_near_f64();
    download(cache.pages.keys, pages.keys), download(cache.pages.values, pages.values);
    EXPECT_TRUE(gaps_intact(cache.pages.keys) && gaps_intact(cache.pages.values));
  }
}

// Oracle: the CPU's steps.
TEST_P(CudaAttention, RopeKvWriteMatchesCpu) {
  if (p.c.shape.head_dim % 2 != 0) return;
  Step step(p.c, arena);
  const int64_t N = step.q.rows, S = std::ssize(p.c.lengths);
  Context cpu({.threads = 1});
  Cache expected(p.c, 5, arena), found(p.c, 5, arena);
  const Tensor rope = random_tensor(arena, N, p.c.shape.head_dim, DType::f32, 5);
  const std::vector<int32_t> past(size_t(S), 0);
  for (const bool host_knows : {true, false}) {
    const Tensor q = upload(step.q), k = upload(step.k), v = upload(step.v);
    const KvPages pages{upload(found.pages.keys), upload(found.pages.values), found.pages.page_tokens};
    rope_kv_write(pages, q, k, v, upload(rope), {upload(found.table, host_knows), found.pages_per_sequence},
                  upload(step.offsets, host_knows), upload(past, host_knows), *gpu);
    download(step.out, q), download(found.pages.keys, pages.keys), download(found.pages.values, pages.values);
    const Tensor rotated = clone(arena, step.q), rotated_k = clone(arena, step.k);
    rope_kv_write(expected.pages, rotated, rotated_k, step.v, rope, expected.page_table(), step.offsets, past, cpu);
    const auto expect_close = [&](Tensor a, Tensor b) {  // the products' roundings, where sums cancel
      for (int64_t r = 0; r < a.rows; ++r)
        for (int64_t c = 0; c < a.cols; ++c)
          ASSERT_NEAR(get(a, r, c), get(b, r, c), 2 * unit_roundoff(a.dtype) * std::abs(get(b, r, c)) + 1e-5);
    };
    expect_close(step.out, rotated), expect_close(found.pages.keys, expected.pages.keys);
    expect_close(found.pages.values, expected.pages.values);
    EXPECT_TRUE(gaps_intact(found.pages.keys) && gaps_intact(found.pages.values));
  }
}

std::vector<CudaCase> cases() {
  std::vector<CudaCase> all;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    all.push_back({{{2, 2, 64}, {40, 1, 131}, dtype}, true});
    all.push_back({{{2, 1, 128}, {70, 0, 2}, dtype}, true});
    all.push_back({{{4, 2, 128}, {33, 33}, dtype}, true});
    all.push_back({{{2, 1, 128, 20}, {70}, dtype}, false});
    all.push_back({{{2, 1, 256}, {35}, dtype}, true});
    all.push_back({{{2, 2, 136, 30}, {90}, dtype}, true});
    all.push_back({{{8, 2, 64, 1}, {20}, dtype}, false});
    all.push_back({{{8, 2, 64, 70}, {0, 110}, dtype}, true});
    all.push_back({{{2, 1, 8, 130}, {0, 150, 3}, dtype}, true});
    all.push_back({{{3, 1, 17}, {90}, dtype}, false});
    all.push_back({{{4, 2, 1}, {19, 5}, dtype}, false});
    all.push_back({{{100, 1, 16}, {9}, dtype}, true});
    all.push_back({{{128, 1, 32}, {1, 3}, dtype}, true});
    all.push_back({{{6, 3, 10}, {50, 21}, dtype}, false});
    all.push_back({{{4, 2, 24}, {0}, dtype}, true});
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaAttention, testing::ValuesIn(cases()));

}  // namespace
}  // namespace tangram
