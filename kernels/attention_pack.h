#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/tile.h"

// How attention lays out rows of D channels for the products of kernels/tile.h. A work item is one sequence and one
// key/value head; the group of query heads that read this head are stacked, so that one product serves them: stacked
// row i * group + g is query head g of the group at the block's token i.
//
// Packed rows hold words of 32 bits: one f32, or two bf16 that are neighbours in the direction that a product sums
// over. `Word` names the element: float (T is f32, or bf16 widened) or bf16 (T is bf16).

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
  float scale;           ///< D^-1/2
  int64_t per_word;      ///< elements of a word: 1 for f32, 2 for bf16
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

/// Hands out parts of one thread's scratch. Without a base it only counts them.
struct Workspace {
  float* base = nullptr;
  int64_t used = 0;  ///< floats

  float* take(int64_t floats) {
    float* p = base ? base + used : nullptr;
    used += round_up(floats, kPanelCols);
    return p;
  }
};

/// Asks for `cols` elements of some rows ahead of their use: the hardware does not foresee such pieces. Inlined by
/// request: the compiler drops calls to a function that only prefetches.
template <class T>
[[gnu::always_inline]] inline void prefetch_row(const T* x, int64_t cols) {
  constexpr auto kPerLine = static_cast<int64_t>(64 / sizeof(T));
  for (int64_t c = 0; c < cols; c += kPerLine) __builtin_prefetch(x + c);
}
template <class Row>
[[gnu::always_inline]] inline void prefetch_rows(int64_t count, int64_t cols, Row row) {
  for (int64_t i = 0; i < count; ++i) prefetch_row(row(i), cols);
}

/// Channels [d, d + kLanes) of a row as f32; zero past D.
template <class T>
Lanes channels_at(const T* x, int64_t d, int64_t D) {
  if (d + kLanes <= D) return widen(x + d);
  Lanes lanes{};
  for (int64_t i = d; i < D; ++i) lanes[i - d] = x[i];
  return lanes;
}

/// Words [w, w + kLanes) of a row as it is; zero past its end.
template <class Word, class T>
Lanes words_at(const T* x, int64_t w, int64_t D) {
  if constexpr (std::is_same_v<Word, float>) {
    return channels_at(x, w, D);
  } else {
    if (2 * (w + kLanes) <= D) return load_pairs(x + 2 * w);
    Lanes lanes{};
    std::memcpy(&lanes, x + 2 * w, static_cast<size_t>(D - 2 * w) * sizeof(bf16));
    return lanes;
  }
}

/// x (count, D) as it is, rows `padded` words apart; row(i) points to row i. Channels past D are zero.
template <class Word, class Row>
void pack_plain(float* out, int64_t count, const HeadShape& head, Row row) {
  const int64_t words = head.words(head.head_dim);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t w = 0; w < words; w += kLanes)
      store(out + i * head.padded + w, words_at<Word>(row(i), w, head.head_dim));
}

/// The transpose of x (count, D), a matrix (D, count), in panels of kPanelCols. Columns past count are zero.
template <class Word, class Row>
void pack_transposed(float* panels, int64_t count, const HeadShape& head, Row row) {
  const int64_t words = head.words(head.head_dim);
  for (int64_t first = 0; first < round_up(count, kPanelCols); first += kLanes) {
    float* panel = panels + first / kPanelCols * kPanelCols * words + first % kPanelCols;
    decltype(row(0)) rows[kLanes];
    for (int i = 0; i < kLanes; ++i) rows[i] = first + i < count ? row(first + i) : nullptr;
    for (int64_t w = 0; w < words; w += kLanes) {
      Lanes block[kLanes];
      for (int i = 0; i < kLanes; ++i) block[i] = rows[i] ? words_at<Word>(rows[i], w, head.head_dim) : Lanes{};
      transpose(block);
      for (int i = 0; i < std::min<int64_t>(kLanes, words - w); ++i) store(panel + (w + i) * kPanelCols, block[i]);
    }
  }
}

/// x (count, D) in panels over D with room for `room` words in each column, which hold one row or two. Channels past D
/// are zero, and so is the partner of the last row of an odd count.
template <class Word, class Row>
void pack_rows(float* panels, int64_t count, int64_t room, const HeadShape& head, Row row) {
  const int64_t D = head.head_dim, W = head.panel;
  const auto pack = [&](int64_t word, auto channels) {
    for (int64_t first = 0; first < head.padded; first += W)
      for (int64_t c = 0; c < W; c += kLanes) store(panels + first * room + word * W + c, channels(first + c));
  };
  for (int64_t i = 0; i < count; i += head.per_word) {
    const auto* x = row(i);
    if constexpr (std::is_same_v<Word, float>) {
      pack(i, [&](int64_t d) { return channels_at(x, d, D); });
    } else {
      const auto* partner = i + 1 < count ? row(i + 1) : nullptr;
      pack(i / 2,
           [&](int64_t d) { return pair_words(channels_at(x, d, D), partner ? channels_at(partner, d, D) : Lanes{}); });
    }
  }
}

}  // namespace tangram
