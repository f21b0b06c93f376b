#pragma once
#include "kernels/lanes.h"

namespace tangram {

// Small products of f32 whose operands lie in cache: for attention, where a call to a matmul library costs as much as
// the work. The left matrix is read element by element, so it may be a transpose; the right one lies in panels:
//
//   panel p of B (K, N) holds columns [p W, (p + 1) W) as K rows of W contiguous floats, W = 16 or 8

constexpr int kTileRows = 6;    ///< with 16 columns, 12 of 16 vector registers hold sums
constexpr int kPanelCols = 16;  ///< W, unless N <= 8

constexpr int64_t panel_cols(int64_t N) { return N <= kLanes ? kLanes : kPanelCols; }

/// c[r,n] = sum_k a[r,k] b[k,n], or += if `accumulate`, with a[r,k] at a[r * row_a + k * col_a]
///
///   c  (rows, cols), rows stride_c apart, rows = 1 to kTileRows, cols whole panels
///   b  (K, cols), panels panel_b floats apart
using TileProduct = void(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b,
                         int64_t panel_b, int64_t K, int64_t rows, int64_t cols, bool accumulate);
TileProduct tile_product;

/// The same over words of two bf16 that are neighbours along k: a[r,k] b[k,n] is the sum of two products, and c stays
/// f32. Twice as fast; only where has_bf16_products().
TileProduct tile_product_bf16;
bool has_bf16_products();

/// A word of two bf16 in each lane, from f32 that bf16 holds exactly: `even` in the lower half.
inline Lanes pair_words(Lanes even, Lanes odd) {
  using Words = uint32_t __attribute__((vector_size(sizeof(Lanes))));
  return reinterpret_cast<Lanes>(reinterpret_cast<Words>(even) >> 16 | reinterpret_cast<Words>(odd));
}

/// Rounds columns [begin, end) of a row to bf16: column j becomes half of word j / 2. `words` may be x; begin and end
/// are multiples of kPanelCols.
void round_columns(float* words, const float* x, int64_t begin, int64_t end);

/// Rounds columns [begin, end) of two rows to bf16: word j is even[j] and odd[j]. `words` may be either row; `odd` may
/// be null for zeros.
void round_rows(float* words, const float* even, const float* odd, int64_t begin, int64_t end);

}  // namespace tangram
