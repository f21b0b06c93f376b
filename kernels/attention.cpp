#include "kernels/attention.h"

#include "kernels/attention_cudnn.h"
#include "kernels/attention_run.h"
#include "kernels/check.h"

namespace tangram {

double attention_flops(const AttentionShape& shape, std::span<const int32_t> offsets) {
  double pairs = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const double tokens = offsets[s + 1] - offsets[s];
    const double near = std::min(tokens, double(shape.window));  // these see all that is before them
    pairs += near * (near + 1) / 2 + (tokens - near) * near;
  }
  return 4 * pairs * double(shape.heads * shape.head_dim);
}

void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape,
                       Indices offsets, Context& ctx) {
  check_attention("q", q, shape.heads, shape, q.rows, q.dtype);
  check_attention("out", out, shape.heads, shape, q.rows, q.dtype);
  check_attention("k", k, shape.kv_heads, shape, q.rows, q.dtype);
  check_attention("v", v, shape.kv_heads, shape, q.rows, q.dtype);
  CHECK(lse.rows == q.rows && lse.cols == shape.heads && lse.dtype == DType::f32,
        "lse is ({}, {}), must be ({}, {}) f32", lse.rows, lse.cols, q.rows, shape.heads);
  check_offsets(offsets, q.rows);
  ctx.attention_flops += attention_flops(shape, offsets.span());
  if (ctx.device == Device::cuda) {
    const ArenaScope scope(ctx.scratch);
    const cuda::DeviceIndices batch{offsets.on_device(ctx), nullptr, nullptr, std::ssize(offsets) - 1};
    const auto cudnn = cuda::cudnn_attention(false, {out, q, k, v}, shape, offsets, ctx);
    if (ctx.planning()) return;
    if constexpr (kCudaBuilt)
      if (on_cuda(ctx, {out, lse, q, k, v}))
        return cuda::attention_forward(out, lse, q, k, v, shape, batch, cudnn ? &*cudnn : nullptr, ctx);
  }

  std::vector<QueryRun> runs;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t tokens = offsets[s + 1] - offsets[s];
    for (int64_t begin = 0; begin < tokens; begin += kRunTokens)
      for (int64_t head = 0; head < shape.kv_heads; ++head)
        runs.push_back({static_cast<int64_t>(s), head, 1, offsets[s], begin, std::min(begin + kRunTokens, tokens)});
  }
  const HeadShape head(shape, q.dtype);
  dispatch_words(q.dtype, head, [&]<class T, class Word>() {
    const auto row_of = [&](const Tensor& x) {
      return
          [&](const QueryRun& run, int64_t j) { return x.row<T>(run.row_of_first + j) + run.kv_head * head.head_dim; };
    };
    attend_all<T, Word>({out, lse, q}, runs, row_of(k), row_of(v), head, ctx);
  });
}

}  // namespace tangram
