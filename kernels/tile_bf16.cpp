#include <immintrin.h>

#include "kernels/tile.h"

// Uses instructions beyond the baseline machine, each function by its own declaration.
#define TANGRAM_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace tangram {
namespace {

// The loops over R and P are unrolled by request: only then does the compiler keep all sums in registers.
// P panels at once: the sums of one alone do not hide the latency of the instruction.
template <int R, int P>
TANGRAM_BF16 void product16(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b,
                            int64_t panel_b, int64_t K, bool accumulate) {
  __m512 sum[R][P];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p)
      sum[r][p] = accumulate ? _mm512_loadu_ps(c + r * stride_c + p * kPanelCols) : _mm512_setzero_ps();
#pragma GCC unroll 2
  for (int64_t k = 0; k < K; ++k) {
    __m512bh bk[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) bk[p] = (__m512bh)_mm512_loadu_ps(b + p * panel_b + k * kPanelCols);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh ark = (__m512bh)_mm512_set1_ps(a[r * row_a + k * col_a]);
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], ark, bk[p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) _mm512_storeu_ps(c + r * stride_c + p * kPanelCols, sum[r][p]);
}

template <int R>
TANGRAM_BF16 void product8(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b,
                           int64_t K, bool accumulate) {
  __m256 sum[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = accumulate ? _mm256_loadu_ps(c + r * stride_c) : _mm256_setzero_ps();
#pragma GCC unroll 2
  for (int64_t k = 0; k < K; ++k) {
    const __m256bh bk = (__m256bh)_mm256_loadu_ps(b + k * 8);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      sum[r] = _mm256_dpbf16_ps(sum[r], (__m256bh)_mm256_set1_ps(a[r * row_a + k * col_a]), bk);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) _mm256_storeu_ps(c + r * stride_c, sum[r]);
}

}  // namespace

bool has_bf16_products() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw");
}

void tile_product_bf16(float* c, int64_t stride_c, const float* a, int64_t row_a, int64_t col_a, const float* b,
                       int64_t panel_b, int64_t K, int64_t rows, int64_t cols, bool accumulate) {
  const auto run = [&]<int R>() {
    if (cols == kLanes) return product8<R>(c, stride_c, a, row_a, col_a, b, K, accumulate);
    int64_t col = 0;
    for (; col + 2 * kPanelCols <= cols; col += 2 * kPanelCols, b += 2 * panel_b)
      product16<R, 2>(c + col, stride_c, a, row_a, col_a, b, panel_b, K, accumulate);
    if (col < cols) product16<R, 1>(c + col, stride_c, a, row_a, col_a, b, panel_b, K, accumulate);
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

TANGRAM_BF16 void round_columns(float* words, const float* x, int64_t begin, int64_t end) {
  for (int64_t j = begin; j < end; j += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + j / 2), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + j)));
}

TANGRAM_BF16 void round_rows(float* words, const float* even, const float* odd, int64_t begin, int64_t end) {
  using Halves = uint16_t __attribute__((vector_size(32)));
  using Words = uint32_t __attribute__((vector_size(64)));
  const float zeros[16] = {};
  for (int64_t j = begin; j < end; j += 16) {
    const auto low = (Halves)_mm512_cvtneps_pbh(_mm512_loadu_ps(even + j));
    const auto high = (Halves)_mm512_cvtneps_pbh(_mm512_loadu_ps(odd ? odd + j : zeros));
    const Words pairs = __builtin_convertvector(low, Words) | __builtin_convertvector(high, Words) << 16;
    _mm512_storeu_ps(words + j, (__m512)pairs);
  }
}

}  // namespace tangram
