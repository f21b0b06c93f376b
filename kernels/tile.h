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
///   c  (rows, W), rows stride_c apart, rows = 1 to kTileRows     b  (K, W), one panel, W = cols
void tile_product(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b, int64_t K,
                  int64_t rows, int64_t cols, bool accumulate);

}  // namespace tangram
