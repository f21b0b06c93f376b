#pragma once
#include <omp.h>

#include "kernels/attention_tiles.h"

// The forward pass over one run of queries, for attention_forward and attention_cached alike.

namespace tangram {

/// What `attend` reads and writes besides keys and values, as in attention.h; lse may be empty.
struct QueryTensors {
  Tensor out, lse, q;
};

/// One work item: the queries at positions [begin, end) of a sequence against key/value heads [kv_head, kv_head +
/// heads). Position p is row `row_of_first + p` of q. Every result has the same bits whatever else is in its run.
struct QueryRun {
  int64_t sequence, kv_head, heads, row_of_first, begin, end;
  /// The first key of the first tile that the run sees.
  int64_t first_tile(const HeadShape& head) const { return head.first_key(begin) / kTileKeys * kTileKeys; }
};

constexpr int64_t kRunTokens = 512;  ///< of a run at most; so many make packing the keys they see cheap

/// Scratch of one run.
struct RunScratch {
  int64_t slots;                        ///< tiles of keys that stay packed
  float *keys, *values;                 ///< (heads, slots, a tile)
  float* queries;                       ///< (heads, rows, padded)
  float* scores;                        ///< (rows, kTileStride)
  std::vector<RunningSoftmax> softmax;  ///< (heads)

  RunScratch(const QueryRun& run, const HeadShape& head, Workspace& scratch) {
    const int64_t rows = head.block_rows(), one_block = run.end - run.begin <= head.block_tokens;
    slots =
        one_block ? 1 : ceil_div(run.end - run.first_tile(head), kTileKeys);  // only a later block sees a tile again
    keys = scratch.take(run.heads * slots * kTileKeys * head.head_dim);
    values = scratch.take(run.heads * slots * kTileKeys * head.padded);
    queries = scratch.take(run.heads * rows * head.padded);
    scores = scratch.take(rows * kTileStride);
    for (int64_t h = 0; h < run.heads; ++h)
      softmax.push_back({scratch.take(rows), scratch.take(rows), scratch.take(rows * head.padded)});
  }
};

/// A block of a run's queries: its rows in q, out and lse, of head h of the run.
template <class T>
struct QueryBlock {
  const QueryRun& run;
  const HeadShape& head;
  int64_t first, tokens;

  int64_t rows() const { return tokens * head.group; }
  int64_t token_row(int64_t r) const { return run.row_of_first + first + r / head.group; }
  int64_t query_head(int64_t h, int64_t r) const { return (run.kv_head + h) * head.group + r % head.group; }
  T* channels(const Tensor& x, int64_t h, int64_t r) const {
    return x.row<T>(token_row(r)) + query_head(h, r) * head.head_dim;
  }
};

/// out = c / l and lse = m + log l.
template <class T>
void finish_block(const QueryTensors& t, const QueryBlock<T>& block, int64_t h, const RunningSoftmax& softmax) {
  for (int64_t r = 0; r < block.rows(); ++r) {
    const float scale = 1 / softmax.l[r], *c = softmax.c + r * block.head.padded;
    T* out = block.channels(t.out, h, r);
    for (int64_t d = 0; d < block.head.head_dim; ++d) out[d] = T(c[d] * scale);
    if (t.lse.data)
      t.lse.row<float>(block.token_row(r))[block.query_head(h, r)] = softmax.m[r] + std::log(softmax.l[r]);
  }
}

/// Attention of one run of queries: key(j) and value(j) point to the channels of the run's first head at position j,
/// which those of its other heads follow.
template <class T, class Word, class Key, class Value>
void attend(const QueryTensors& t, const QueryRun& run, Key key, Value value, const HeadShape& head,
            Workspace workspace) {
  RunScratch scratch(run, head, workspace);
  const int64_t D = head.head_dim, query_words = head.block_rows() * head.padded;
  int64_t packed_end = run.first_tile(head);
  Tile tile;
  for (int64_t query = run.begin; query < run.end; query += head.block_tokens) {
    const QueryBlock<T> block{run, head, query, std::min(head.block_tokens, run.end - query)};
    const int64_t query_end = query + block.tokens, next_tokens = std::min(head.block_tokens, run.end - query_end);
    for (int64_t h = 0; h < run.heads; ++h) {
      pack_plain<Word>(scratch.queries + h * query_words, block.rows(), head,
                       [&](int64_t r) { return block.channels(t.q, h, r); });
      prefetch_rows(next_tokens * head.group, D, [&](int64_t r) { return block.channels(t.q, h, block.rows() + r); });
      scratch.softmax[h].start(block.rows(), head);
    }
    for (int64_t j = head.first_key(query) / kTileKeys * kTileKeys; j < query_end; j += kTileKeys) {
      const int64_t count = std::min(kTileKeys, run.end - j), next = j + count;
      const bool pack = j >= packed_end;
      if (pack) packed_end = next;
      // Each row asks for the one a tile further on, so that reading memory goes on all the time.
      const auto ahead = [&](auto rows, int64_t i, int64_t h) {
        if (next + i < run.end) prefetch_row(rows(next + i) + h * D, D);
        return rows(j + i) + h * D;
      };
      tile.place(query, block.tokens, j, std::min(kTileKeys, query_end - j), head);
      for (int64_t h = 0; h < run.heads; ++h) {
        const int64_t slot = h * scratch.slots + (j - run.first_tile(head)) / kTileKeys % scratch.slots;
        float* keys = scratch.keys + slot * kTileKeys * D;
        float* values = scratch.values + slot * kTileKeys * head.padded;
        if (pack) {
          pack_transposed<Word>(keys, count, head, [&](int64_t i) { return ahead(key, i, h); });
          pack_rows<Word>(values, count, head.words(kTileKeys), head, [&](int64_t i) { return ahead(value, i, h); });
        }
        tile_scores(scratch.scores, scratch.queries + h * query_words, keys, tile, head);
        tile_mask(scratch.scores, tile, head);
        scratch.softmax[h].update(scratch.scores, tile, head);
        tile_combine(scratch.softmax[h].c, tile_columns<Word>(scratch.scores, scratch.scores, tile), values, tile,
                     head);
      }
    }
    for (int64_t h = 0; h < run.heads; ++h) finish_block(t, block, h, scratch.softmax[h]);
  }
}

/// `attend` for every run, dealt out to the threads in turn: neighbours cost alike. key(run, j) and value(run, j) are
/// as in `attend`.
template <class T, class Word, class Key, class Value>
void attend_all(const QueryTensors& t, std::span<const QueryRun> runs, Key key, Value value, const HeadShape& head,
                Context& ctx) {
  int64_t floats = 0;
  for (const QueryRun& run : runs) {
    Workspace counter;
    RunScratch(run, head, counter);
    floats = std::max(floats, counter.used);
  }
  const ArenaScope scope(ctx.scratch);
  const Tensor scratch = ctx.scratch.tensor(ctx.threads, floats, DType::f32);
  if (ctx.planning()) return;
#pragma omp parallel for num_threads(ctx.threads) schedule(static, 1)
  for (const QueryRun& run : runs)
    attend<T, Word>(
        t, run, [&](int64_t j) { return key(run, j); }, [&](int64_t j) { return value(run, j); }, head,
        Workspace{scratch.row<float>(omp_get_thread_num())});
}

}  // namespace tangram
