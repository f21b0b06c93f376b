#include "kernels/attention_run.h"

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

}  // namespace

void kv_write(const KvPages& cache, Tensor k, Tensor v, const PageTable& table, Indices offsets, Indices past,
              Context& ctx) {
  check_offsets(offsets, k.rows);
  check_pages(cache, table, offsets, past);
  CHECK(k.same_shape(v) && k.cols == cache.keys.cols, "k ({}, {}), v ({}, {}) for a cache of {} channels", k.rows,
        k.cols, v.rows, v.cols, cache.keys.cols);
  CHECK(k.dtype == cache.keys.dtype && v.dtype == cache.values.dtype, "k and v are {} and {}, the cache {} and {}",
        name_of(k.dtype), name_of(v.dtype), name_of(cache.keys.dtype), name_of(cache.values.dtype));
  const auto sequences = static_cast<int64_t>(past.size());
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (k.rows > 1)
  for (int64_t s = 0; s < sequences; ++s)
    for (int64_t i = offsets[s]; i < offsets[s + 1]; ++i) {
      const int64_t row = cache_row(cache, table, s, past[s] + i - offsets[s]);
      copy(cache.keys.row_range(row, 1), k.row_range(i, 1));
      copy(cache.values.row_range(row, 1), v.row_range(i, 1));
    }
}

void attention_cached(Tensor out, Tensor q, const KvPages& cache, const PageTable& table, const AttentionShape& shape,
                      Indices offsets, Indices past, Context& ctx) {
  check_attention("q", q, shape.heads, shape, q.rows, q.dtype);
  check_attention("out", out, shape.heads, shape, q.rows, q.dtype);
  check_attention("cached keys", cache.keys, shape.kv_heads, shape, cache.keys.rows, q.dtype);
  check_attention("cached values", cache.values, shape.kv_heads, shape, cache.keys.rows, q.dtype);
  check_offsets(offsets, q.rows);
  check_pages(cache, table, offsets, past);

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
