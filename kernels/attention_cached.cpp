#include "kernels/attention_run.h"
#include "kernels/check.h"
#include "kernels/rope.h"

namespace tangram {
namespace {

/// Row of the cache that holds position p of sequence s.
int64_t cache_row(const KvPages& cache, const PageTable& table, int64_t s, int64_t p) {
  const int64_t page = table.pages[s * table.pages_per_sequence + p / cache.page_tokens];
  return page * cache.page_tokens + p % cache.page_tokens;
}

/// Throws Error unless every position of every sequence lies in a page of the cache.
void check_pages(const KvPages& cache, const PageTable& table, Indices offsets, Indices past) {
  const auto sequences = static_cast<int64_t>(past.size());
  CHECK(offsets.size() == past.size() + 1, "{} offsets for {} sequences", offsets.size(), sequences);
  CHECK(cache.page_tokens > 0 && cache.keys.same_shape(cache.values) && cache.keys.rows % cache.page_tokens == 0,
        "keys ({}, {}), values ({}, {}) in pages of {} tokens", cache.keys.rows, cache.keys.cols, cache.values.rows,
        cache.values.cols, cache.page_tokens);
  CHECK(static_cast<int64_t>(table.pages.size()) == sequences * table.pages_per_sequence,
        "{} pages for {} sequences of {}", table.pages.size(), sequences, table.pages_per_sequence);
  if (offsets.span().empty() || past.span().empty() || table.pages.span().empty()) return;  // only the GPU knows them
  const int64_t pages = cache.keys.rows / cache.page_tokens;
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t end = past[s] + (offsets[s + 1] - offsets[s]);
    CHECK(past[s] >= 0 && end <= table.pages_per_sequence * cache.page_tokens,
          "sequence {} has {} + {} tokens; its {} pages hold {}", s, past[s], end - past[s], table.pages_per_sequence,
          table.pages_per_sequence * cache.page_tokens);
    for (int64_t i = 0; i < ceil_div(end, cache.page_tokens); ++i) {
      const int64_t page = table.pages[s * table.pages_per_sequence + i];
      CHECK(page >= 0 && page < pages, "sequence {} uses page {} of {}", s, page, pages);
    }
  }
}

void check_write(const KvPages& cache, Tensor k, Tensor v, const PageTable& table, Indices offsets, Indices past) {
  check_offsets(offsets, k.rows);
  check_pages(cache, table, offsets, past);
  CHECK(k.same_shape(v) && k.cols == cache.keys.cols, "k ({}, {}), v ({}, {}) for a cache of {} channels", k.rows,
        k.cols, v.rows, v.cols, cache.keys.cols);
  CHECK(k.dtype == cache.keys.dtype && v.dtype == cache.values.dtype, "k and v are {} and {}, the cache {} and {}",
        name_of(k.dtype), name_of(v.dtype), name_of(cache.keys.dtype), name_of(cache.values.dtype));
}

cuda::DeviceIndices device_indices(const PageTable& table, Indices offsets, Indices past, Context& ctx) {
  return {offsets.on_device(ctx), past.on_device(ctx), table.pages.on_device(ctx), std::ssize(past)};
}

/// How a GPU cuts attention_cached. It depends on sizes alone: a plan made without a GPU, or a graph that is replayed
/// over other numbers, is cut alike.
cuda::CachedParts cached_parts(Tensor q, const KvPages& cache, const PageTable& table, const AttentionShape& shape,
                               Indices past, Context& ctx) {
  constexpr int64_t kBlocks = 2 * 132;  // that run together on an H100 or H200
  constexpr int64_t kLeastKeys = 256;   // of a part: below, putting the parts together costs more than it saves
  constexpr int64_t kMostSplits = 64;
  const int64_t sequences = std::max<int64_t>(1, std::ssize(past)), tokens = ceil_div(q.rows, sequences);
  const int64_t rows = tokens * (shape.heads / shape.kv_heads), tile_rows = rows <= 16 ? 16 : rows <= 64 ? 64 : 128;
  const int64_t blocks = sequences * ceil_div(rows, tile_rows) * shape.kv_heads;
  const int64_t context = table.pages_per_sequence * cache.page_tokens;
  const int64_t keys = shape.window < context ? std::min(context, shape.window + tokens) : context;

  // The share of the GPU that works while the last blocks run, and the fewest parts that come near the best.
  const auto busy = [&](int64_t splits) {
    return double(blocks * splits) / double(round_up(std::max<int64_t>(1, blocks * splits), kBlocks));
  };
  const int64_t most = std::clamp<int64_t>(keys / kLeastKeys, 1, kMostSplits);
  double best = 0;
  for (int64_t s = 1; s <= most; ++s) best = std::max(best, busy(s));
  int64_t splits = 1;
  while (busy(splits) < 0.95 * best) ++splits;
  if (splits == 1) return {tile_rows, 1, {}, {}};
  return {tile_rows, splits, ctx.scratch.tensor(q.rows * shape.heads, splits * shape.head_dim, DType::f32),
          ctx.scratch.tensor(q.rows * shape.heads, splits, DType::f32)};
}

}  // namespace

void kv_write(const KvPages& cache, Tensor k, Tensor v, const PageTable& table, Indices offsets, Indices past,
              Context& ctx) {
  check_write(cache, k, v, table, offsets, past);
  const ArenaScope scope(ctx.scratch);
  const cuda::DeviceIndices batch = device_indices(table, offsets, past, ctx);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {cache.keys, cache.values, k, v})) return cuda::kv_write(cache, k, v, table, batch, ctx);
  const auto sequences = static_cast<int64_t>(past.size());
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (k.rows > 1)
  for (int64_t s = 0; s < sequences; ++s)
    for (int64_t i = offsets[s]; i < offsets[s + 1]; ++i) {
      const int64_t row = cache_row(cache, table, s, past[s] + i - offsets[s]);
      copy(cache.keys.row_range(row, 1), k.row_range(i, 1));
      copy(cache.values.row_range(row, 1), v.row_range(i, 1));
    }
}

void rope_kv_write(const KvPages& cache, Tensor q, Tensor k, Tensor v, Tensor rope, const PageTable& table,
                   Indices offsets, Indices past, Context& ctx) {
  if (ctx.device == Device::cpu) {
    rope_forward(q, rope, ctx);
    rope_forward(k, rope, ctx);
    return kv_write(cache, k, v, table, offsets, past, ctx);
  }
  check_write(cache, k, v, table, offsets, past);
  check_rope(q, rope), check_rope(k, rope);
  CHECK(q.dtype == k.dtype, "q is {}, k {}", name_of(q.dtype), name_of(k.dtype));
  const ArenaScope scope(ctx.scratch);
  const cuda::DeviceIndices batch = device_indices(table, offsets, past, ctx);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {cache.keys, cache.values, q, k, v, rope}))
      return cuda::rope_kv_write(cache, q, k, v, rope, table, batch, ctx);
}

void attention_cached(Tensor out, Tensor q, const KvPages& cache, const PageTable& table, const AttentionShape& shape,
                      Indices offsets, Indices past, Context& ctx) {
  check_attention("q", q, shape.heads, shape, q.rows, q.dtype);
  check_attention("out", out, shape.heads, shape, q.rows, q.dtype);
  check_attention("cached keys", cache.keys, shape.kv_heads, shape, cache.keys.rows, q.dtype);
  check_attention("cached values", cache.values, shape.kv_heads, shape, cache.keys.rows, q.dtype);
  check_offsets(offsets, q.rows);
  check_pages(cache, table, offsets, past);
  if (ctx.device == Device::cuda) {
    const ArenaScope scope(ctx.scratch);
    const cuda::DeviceIndices batch = device_indices(table, offsets, past, ctx);
    const cuda::CachedParts parts = cached_parts(q, cache, table, shape, past, ctx);
    if (ctx.planning()) return;
    if constexpr (kCudaBuilt)
      if (on_cuda(ctx, {out, q, cache.keys, cache.values}))
        return cuda::attention_cached(out, q, cache, table, shape, batch, parts, ctx);
  }

  const HeadShape head(shape, q.dtype);
  std::vector<QueryRun> runs;
  for (size_t s = 0; s < past.size(); ++s) {
    const int64_t end = past[s] + offsets[s + 1] - offsets[s];
    // A few queries cost no more than reading the cache, so their run takes the heads that lie side by side in it.
    const bool few = end - past[s] <= head.block_tokens;
    const int64_t heads = few ? ceil_div(shape.kv_heads, ctx.threads) : 1;
    for (int64_t begin = past[s]; begin < end; begin += kRunTokens)
      for (int64_t h = 0; h < shape.kv_heads; h += heads)
        runs.push_back({static_cast<int64_t>(s), h, std::min(heads, shape.kv_heads - h), offsets[s] - past[s], begin,
                        std::min(begin + kRunTokens, end)});
  }
  dispatch_words(q.dtype, head, [&]<class T, class Word>() {
    const auto row_of = [&](const Tensor& x) {
      return [&](const QueryRun& run, int64_t j) {
        return x.row<T>(cache_row(cache, table, run.sequence, j)) + run.kv_head * head.head_dim;
      };
    };
    attend_all<T, Word>({out, {}, q}, runs, row_of(cache.keys), row_of(cache.values), head, ctx);
  });
}

}  // namespace tangram
