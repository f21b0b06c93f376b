#pragma once
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/tile.h"

// How attention lays out rows of D channels for the products of kernels/tile.h. A work item is one sequence and one
// key/value head; the group of query heads that read this head are stacked, so that one product serves them: stacked
// row i * group + g is query head g of the group at the block's token i.
//
// Packed rows hold words of 32 bits: one f32, or two bf16 that are neighbours in the direction that a product sums over.
// `Word` names the element: float (T is f32, or bf16 widened) or bf16 (T is bf16).

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
  float scale;            ///< D^-1/2
  int64_t per_word;       ///< elements of a word: 1 for f32, 2 for bf16
  TileProduct* product;  ///< of such words

  HeadShape(const AttentionShape& shape, DType dtype)
      : group(shape.heads / shape.kv_heads),
        head_dim(shape.head_dim),
        panel(panel_cols(head_dim)),
        padded(round_up(head_dim, panel)),
        block_tokens(std::max<int64_t>(1, kBlockRows / group)),
        window(shape.window),
        scale(static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)))),
        per_word(dtype == DType::bf16 && head_dim % 2 == 0 && has_bf16_products() ? 2 : 1),
        product(per_word == 2 ? tile_product_bf16 : tile_product) {}

  int64_t block_rows() const { return block_tokens * group; }
  int64_t words(int64_t elements) const { return ceil_div(elements, per_word); }
  /// The first key that the query at `position` sees.
  int64_t first_key(int64_t position) const { return window > position ? 0 : position - window + 1; }
};

/// Calls f.operator()<T, Word>() for the elements of the tensors and of the words.
template <class F>
void dispatch_words(DType dtype, const HeadShape& head, F f) {
  if (dtype == DType::f32) return f.template operator()<float, float>();
  head.per_word == 2 ? f.template operator()<bf16, bf16>() : f.template operator()<bf16, float>();
}

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

/// A row of D elements as `head.words(D)` words; any alignment.
inline const float* words_of(const float* x) { return x; }
inline const float* words_of(const bf16* x) { return reinterpret_cast<const float*>(x); }

}  // namespace tangram
