#pragma once
#include "kernels/lanes.h"

namespace tangram {

// Small products of f32 held in cache, for attention, where a call to a matmul library costs as much as the work.
// The left matrix is read element by element, so it may be a transpose; the right one is in panels:
//
//   panel p of B (K, N) holds columns [p W, p W + W) as K rows of W contiguous floats

constexpr int kTileRows = 6;    ///< kTileRows * kPanelCols sums fill 12 of 16 vector registers
constexpr int kPanelCols = 16;  ///< W, except where a matrix has at most 8 columns

/// c[r][n] = sum_k a[r * row_a + k * col_a] * b[k * V * kLanes + n], or += if `accumulate`
///
///   c  (R, V * kLanes), rows stride_c apart     b  (K, V * kLanes), one panel
template <int R, int V, bool accumulate>
inline void tile(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b, int64_t K) {
  Lanes sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] = accumulate ? load(c + r * stride_c + v * kLanes) : Lanes{};
#pragma GCC unroll 2
  for (int64_t k = 0; k < K; ++k) {
    Lanes bk[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) bk[v] = load(b + (k * V + v) * kLanes);
    for (int r = 0; r < R; ++r) {
      const Lanes ark = broadcast(a[r * row_a + k * col_a]);
  #pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sum[r][v] += ark * bk[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(c + r * stride_c + v * kLanes, sum[r][v]);
}

/// `tile` for 1 to kTileRows rows and a panel of 8 or 16 columns.
template <bool accumulate>
void tile_product(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b, int64_t K,
                  int64_t rows, int64_t cols);

}  // namespace tangram
