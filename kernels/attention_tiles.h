#pragma once
#include <vector>

#include "kernels/attention_pack.h"

// The products and the softmax of attention on one block of queries against one tile of keys, and what the entries of
// kernels/attention.h share. Positions count from the start of the sequence.

namespace tangram {

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
///   s  (rows, kTileStride)     a  from pack_plain     b  the tile's keys from pack_transposed
void tile_scores(float* s, const float* a, const float* b, const Tile& tile, const HeadShape& head);

/// c += p b over the touched part: out from probabilities and values, or dq from ds and keys.
///
///   c  (rows, padded)     p  from tile_columns     b  the tile's keys from pack_rows with room for kTileKeys
void tile_combine(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head);

/// c += p^T b over the touched part: dv from probabilities and dout, or dk from ds and queries.
///
///   c  (keys, padded)     p  from tile_rows     b  the block's rows from pack_rows with room for them
void tile_scatter(float* c, const float* p, const float* b, const Tile& tile, const HeadShape& head);

/// The touched part of p (rows, kTileStride) f32 as the words of a product that sums over keys, or over rows. If a word
/// is one f32 that is p itself; else p is rounded into `out`, which may be p.
template <class Word>
const float* tile_columns(float* out, float* p, const Tile& tile);
template <class Word>
const float* tile_rows(float* out, float* p, const Tile& tile);

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

/// Throws Error unless x is (N, heads * D) of a compute dtype and the shape makes sense.
void check_attention(const char* name, Tensor x, int64_t heads, const AttentionShape& shape, int64_t tokens,
                     DType dtype);

/// The longest sequence. Throws Error unless the offsets rise from 0 to `tokens`. Where only the GPU knows them:
/// tokens.
int64_t check_offsets(Indices offsets, int64_t tokens);

}  // namespace tangram
