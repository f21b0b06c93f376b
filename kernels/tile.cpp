#include "kernels/tile.h"

namespace tangram {
namespace {

// The loops over R and V are unrolled by request: only then does the compiler keep all sums in registers.
template <int R, int V>
void product(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b, int64_t K,
             bool accumulate) {
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
#pragma GCC unroll 8
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

}  // namespace

void tile_product(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b,
                  int64_t panel_b, int64_t K, int64_t rows, int64_t cols, bool accumulate) {
  const auto run = [&]<int R>() {
    if (cols == kLanes) return product<R, 1>(c, stride_c, a, row_a, col_a, b, K, accumulate);
    for (int64_t col = 0; col < cols; col += kPanelCols, b += panel_b)
      product<R, 2>(c + col, stride_c, a, row_a, col_a, b, K, accumulate);
  };
  switch (rows) {
    case 1:
      return run.operator()<1>();
    case 2:
      return run.operator()<2>();
    case 3:
      return run.operator()<3>();
    case 4:
      return run.operator()<4>();
    case 5:
      return run.operator()<5>();
    default:
      return run.operator()<kTileRows>();
  }
}

}  // namespace tangram
