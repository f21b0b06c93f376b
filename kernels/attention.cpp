#include "kernels/attention.h"

#include <omp.h>

#include "kernels/attention_tiles.h"

namespace tangram {
void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape,
                       std::span<const int32_t> offsets, Context& ctx) {
  check_attention("q", q, shape.heads, shape, q.rows, q.dtype);
  check_attention("out", out, shape.heads, shape, q.rows, q.dtype);
  check_attention("k", k, shape.kv_heads, shape, q.rows, q.dtype);
  check_attention("v", v, shape.kv_heads, shape, q.rows, q.dtype);
  CHECK(lse.rows == q.rows && lse.cols == shape.heads && lse.dtype == DType::f32,
        "lse is ({}, {}), must be ({}, {}) f32", lse.rows, lse.cols, q.rows, shape.heads);
  const int64_t longest = check_offsets(offsets, q.rows);

  std::vector<QueryRun> runs;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t tokens = offsets[s + 1] - offsets[s];
    for (int64_t begin = 0; begin < tokens; begin += kRunTokens)
      for (int64_t head = 0; head < shape.kv_heads; ++head)
        runs.push_back({static_cast<int64_t>(s), head, offsets[s], begin, std::min(begin + kRunTokens, tokens)});
  }
  const QueryTensors tensors{out, lse, q};
  const HeadShape head(shape);
  const ArenaScope scope(ctx.scratch);
  const Tensor scratch =
      ctx.scratch.tensor(ctx.threads, attend_floats(std::min(kRunTokens, longest), longest, head), DType::f32);
  dispatch(q.dtype, [&]<class T>() {
  // Runs cost alike within one sequence, so dealing them out in turn balances the threads.
#pragma omp parallel for num_threads(ctx.threads) schedule(static, 1)
    for (const QueryRun& run : runs) {
      const int64_t channel = run.kv_head * head.head_dim;
      attend<T>(
          tensors, run, [&](int64_t j) { return k.row<T>(run.row_of_first + j) + channel; },
          [&](int64_t j) { return v.row<T>(run.row_of_first + j) + channel; }, head,
          {scratch.row<float>(omp_get_thread_num())});
    }
  });
}

}  // namespace tangram
