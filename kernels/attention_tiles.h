#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"
#include "kernels/tile.h"

// The parts that attention_forward, attention_backward and attention_cached share. One work item is one sequence and
// one key/value head. The group of query heads that read this head are stacked, so one product serves them: row
// i * group + g of a block is query head g of the group at the block's token i. Positions count from the start of the
// sequence.

namespace tangram {

constexpr int64_t kBlockRows = 96;  ///< stacked query rows of one block, at most, unless the group alone has more
constexpr int64_t kTileKeys = 128;  ///< keys of one tile; with kBlockRows, the tiles of the backward pass stay in L2
constexpr int64_t kTileStride = kTileKeys + kPanelCols;  ///< not a power of two: rows fall into different cache sets

/// Sizes that all work items of one call have in common.
struct HeadShape {
  int64_t group;         ///< query heads of one key/value head
  int64_t head_dim;      ///< D
  int64_t panel;         ///< columns of a panel over D
  int64_t padded;        ///< D rounded up to whole panels
  int64_t block_tokens;  ///< query tokens of one block
  int64_t window;
  float scale;  ///< D^-1/2

  explicit HeadShape(const AttentionShape& shape)
      : group(shape.heads / shape.kv_heads),
        head_dim(shape.head_dim),
        panel(panel_cols(head_dim)),
        padded(round_up(head_dim, panel)),
        block_tokens(std::max<int64_t>(1, kBlockRows / group)),
        window(shape.window),
        scale(static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)))) {}

  int64_t block_rows() const { return block_tokens * group; }
  /// The first key that the query at `position` sees.
  int64_t first_key(int64_t position) const { return window > position ? 0 : position - window + 1; }
};

/// Hands out parts of one thread's scratch.
struct Workspace {
  float* next;
  float* take(int64_t floats) {
    float* p = next;
    next += round_up(floats, kPanelCols);
    return p;
  }
};

/// Asks for rows ahead of their use: they lie too far apart for the hardware to see a pattern.
template <class Row>
void prefetch_rows(int64_t count, const HeadShape& head, Row row) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < count; ++i) {
    const auto* x = row(i);
    const int64_t per_line = kLine / static_cast<int64_t>(sizeof(*x));
    for (int64_t d = 0; d < head.head_dim; d += per_line) __builtin_prefetch(x + d);
  }
}

/// Channels [d, d + kLanes) of a row as f32; zero past D.
template <class T>
Lanes channels_at(const T* x, int64_t d, int64_t D) {
  if (d + kLanes <= D) return widen(x + d);
  Lanes lanes{};
  for (int64_t i = d; i < D; ++i) lanes[i - d] = x[i];
  return lanes;
}

/// x (count, D) as it is, rows `padded` apart; row(i) points to row i. Columns past D are zero.
template <class Row>
void pack_plain(float* out, int64_t count, const HeadShape& head, Row row) {
  const int64_t D = head.head_dim, P = head.padded;
  for (int64_t i = 0; i < count; ++i) {
    const auto* x = row(i);
    for (int64_t d = 0; d < P; d += kLanes) store(out + i * P + d, channels_at(x, d, D));
  }
}

/// x (count, D) in panels with room for `panel_rows` rows. Columns past D are zero.
template <class Row>
void pack_rows(float* panels, int64_t count, int64_t panel_rows, const HeadShape& head, Row row) {
  const int64_t D = head.head_dim, P = head.padded, W = head.panel;
  for (int64_t i = 0; i < count; ++i) {
    const auto* x = row(i);
    for (int64_t first = 0; first < P; first += W)
      for (int64_t c = 0; c < W; c += kLanes)
        store(panels + first * panel_rows + i * W + c, channels_at(x, first + c, D));
  }
}

/// The transpose of x (count, D), a matrix (D, count), in panels of kPanelCols. Columns past count are zero.
template <class Row>
void pack_transposed(float* panels, int64_t count, const HeadShape& head, Row row) {
  const int64_t D = head.head_dim;
  for (int64_t first = 0; first < round_up(count, kPanelCols); first += kLanes) {
    float* panel = panels + first / kPanelCols * kPanelCols * D + first % kPanelCols;
    decltype(row(0)) rows[kLanes];
    for (int i = 0; i < kLanes; ++i) rows[i] = first + i < count ? row(first + i) : nullptr;
    int64_t d = 0;
    for (; d + kLanes <= D && first + kLanes <= count; d += kLanes) {
      Lanes block[kLanes];
      for (int i = 0; i < kLanes; ++i) block[i] = widen(rows[i] + d);
      transpose(block);
      for (int i = 0; i < kLanes; ++i) store(panel + (d + i) * kPanelCols, block[i]);
    }
    for (; d < D; ++d)
      for (int i = 0; i < kLanes; ++i) panel[d * kPanelCols + i] = rows[i] ? static_cast<float>(rows[i][d]) : 0.0f;
  }
}

/// A block of queries against a tile of keys.
struct Tile {
  int64_t first_query, rows;  ///< position of the block's first token; stacked rows
  int64_t first_key, keys;    ///< position of the tile's first key; keys, at most kTileKeys

  struct Range {
    int64_t begin, end;
    bool empty() const { return begin >= end; }
  };
  /// For each kTileRows stacked rows, the columns of the tile that any of them sees, widened to whole panels: where
  /// the products of these rows read and write the tile.
  std::vector<Range> touched;

  /// Columns of the tile that the query of stacked row `row` sees.
  Range seen(int64_t row, const HeadShape& head) const;
  void place(int64_t query, int64_t query_tokens, int64_t key, int64_t key_count, const HeadShape& head);
};

/// s = a b^T over the touched part of the tile: scores from queries and keys, or dp from dout and values.
///
///   s  (rows, kTileStride)     a  (rows, padded)     b  the tile's keys from pack_transposed
void tile_scores(float* s, const float* a, const float* b, const Tile& tile, const HeadShape& head);

/// c += p b over the touched part: out from probabilities and values, or dq from ds and keys.
///
///   c  (rows, padded)     p  (rows, kTileStride)     b  the tile's keys from pack_rows with room for kTileKeys
void tile_combine(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head);

/// c += p^T b over the touched part: dv from probabilities and dout, or dk from ds and queries.
///
///   c  (keys, padded)     p  (rows, kTileStride)     b  the block's rows from pack_rows with room for them
void tile_scatter(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head);

/// s = -inf where a row's query does not see a touched column.
void tile_mask(float* s, const Tile& tile, const HeadShape& head);

/// Running softmax of a block's rows over the tiles seen so far: with m the largest score and l = sum exp(s - m),
/// out = c / l (Milakov & Gimelshein 2018, arXiv:1805.02867).
struct RunningSoftmax {
  float *m, *l;  ///< (rows)
  float* c;      ///< (rows, padded)

  void start(int64_t rows, const HeadShape& head);
  /// s = exp(scale s - m) with m, l and c brought to the new maximum.
  void update(float* s, const Tile& tile, const HeadShape& head);
};

/// What a call to `attend` reads and writes besides keys and values, as in attention.h; lse may be empty.
struct QueryTensors {
  Tensor out, lse, q;
};

/// One work item: the queries at positions [begin, end) of a sequence. Position p is row `row_of_first + p` of q.
struct QueryRun {
  int64_t sequence, kv_head, row_of_first, begin, end;
};

constexpr int64_t kRunTokens = 512;  ///< of a run at most; so many make packing the keys they see cheap

/// Floats of scratch that `attend` needs for a run of at most `tokens` queries in a sequence of at most `keys` keys.
int64_t attend_floats(int64_t tokens, int64_t keys, const HeadShape& head);

/// Attention of one run of queries: key(j) and value(j) point to the D channels at position j.
template <class T, class Key, class Value>
void attend(const QueryTensors& t, const QueryRun& run, Key key, Value value, const HeadShape& head,
            Workspace scratch) {
  const int64_t D = head.head_dim, P = head.padded, first_channel = run.kv_head * head.group * D;
  const int64_t keys_begin = head.first_key(run.begin) / kTileKeys * kTileKeys;
  // Only a later block comes back to a tile of keys.
  const int64_t slots = run.end - run.begin <= head.block_tokens ? 1 : ceil_div(run.end - keys_begin, kTileKeys);
  float* key_panels = scratch.take(slots * kTileKeys * D);
  float* value_panels = scratch.take(slots * kTileKeys * P);
  float* queries = scratch.take(head.block_rows() * P);
  float* scores = scratch.take(head.block_rows() * kTileStride);
  RunningSoftmax softmax{scratch.take(head.block_rows()), scratch.take(head.block_rows()),
                         scratch.take(head.block_rows() * P)};

  Tile tile;
  int64_t packed_end = keys_begin;
  for (int64_t query = run.begin; query < run.end; query += head.block_tokens) {
    const int64_t tokens = std::min(head.block_tokens, run.end - query), rows = tokens * head.group;
    const auto channels = [&](const Tensor& x, int64_t r) {
      return x.row<T>(run.row_of_first + query + r / head.group) + first_channel + r % head.group * D;
    };
    pack_plain(queries, rows, head, [&](int64_t r) { return channels(t.q, r); });
    const int64_t next_tokens = std::clamp<int64_t>(run.end - query - tokens, 0, head.block_tokens);
    prefetch_rows(next_tokens * head.group, head, [&](int64_t r) { return channels(t.q, rows + r); });
    softmax.start(rows, head);
    for (int64_t j = head.first_key(query) / kTileKeys * kTileKeys; j < query + tokens; j += kTileKeys) {
      const int64_t slot = (j - keys_begin) / kTileKeys % slots;
      float *tile_keys = key_panels + slot * kTileKeys * D, *tile_values = value_panels + slot * kTileKeys * P;
      if (j >= packed_end) {
        const int64_t count = std::min(kTileKeys, run.end - j), next = j + count;
        const int64_t next_count = std::min(kTileKeys, run.end - next);
        prefetch_rows(next_count, head, [&](int64_t i) { return key(next + i); });
        prefetch_rows(next_count, head, [&](int64_t i) { return value(next + i); });
        pack_transposed(tile_keys, count, head, [&](int64_t i) { return key(j + i); });
        pack_rows(tile_values, count, kTileKeys, head, [&](int64_t i) { return value(j + i); });
        packed_end = j + kTileKeys;
      }
      tile.place(query, tokens, j, std::min(kTileKeys, query + tokens - j), head);
      tile_scores(scores, queries, tile_keys, tile, head);
      tile_mask(scores, tile, head);
      softmax.update(scores, tile, head);
      tile_combine(softmax.c, scores, tile_values, tile, head);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float scale = 1 / softmax.l[r];
      T* out = channels(t.out, r);
      for (int64_t d = 0; d < D; ++d) out[d] = T(softmax.c[r * P + d] * scale);
      if (t.lse.data)
        t.lse.row<float>(run.row_of_first + query + r / head.group)[run.kv_head * head.group + r % head.group] =
            softmax.m[r] + std::log(softmax.l[r]);
    }
  }
}

/// Throws Error unless x is (N, heads * D) of a compute dtype and the shape makes sense.
void check_attention(const char* name, Tensor x, int64_t heads, const AttentionShape& shape, int64_t tokens,
                     DType dtype);

/// The longest sequence. Throws Error unless the offsets rise from 0 to `tokens`.
int64_t check_offsets(std::span<const int32_t> offsets, int64_t tokens);

}  // namespace tangram
