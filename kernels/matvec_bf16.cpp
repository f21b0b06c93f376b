#include <immintrin.h>

#include "kernels/lanes.h"
#include "kernels/matvec.h"
#include "kernels/matvec_rows.h"
#include "kernels/row_walk.h"

// Uses instructions beyond the baseline machine, each function by its own declaration.
#define TANGRAM_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace tangram {
namespace {

// The loops over R and N are unrolled by request: only then does the compiler keep all sums in registers.
template <int R, int N>
TANGRAM_BF16 void dot_rows(float* sums, const Tensor& w, int64_t first, const Tensor& x) {
  const bf16 *rows = w.row<bf16>(first), *xs = x.as<bf16>();
  __m512 acc[R][N];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) acc[r][n] = _mm512_setzero_ps();
  const auto add = [&](int64_t k, __mmask32 columns) TANGRAM_BF16 {
    __m512bh xk[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) xk[n] = (__m512bh)_mm512_maskz_loadu_epi16(columns, xs + n * x.stride + k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto wk = (__m512bh)_mm512_maskz_loadu_epi16(columns, rows + r * w.stride + k);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) acc[r][n] = _mm512_dpbf16_ps(acc[r][n], wk, xk[n]);
    }
  };
  RowWalk<R, bf16> walk(rows, w.stride, w.cols);
  for (; walk.more(); walk.step()) {
    for (int r = 0; r < R; ++r) walk.prefetch();
    add(walk.column(), ~__mmask32{0});
  }
  if (const int64_t left = w.cols - walk.column(); left > 0) add(walk.column(), (__mmask32{1} << left) - 1);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      float lanes[2 * kLanes];
      _mm512_storeu_ps(lanes, acc[r][n]);
      sums[r * N + n] = lane_sum(load(lanes) + load(lanes + kLanes));
    }
}

}  // namespace

RowKernel row_kernel_bf16(int64_t tokens) {
  static constexpr RowKernel kKernels[kMatvecRows] = {{8, dot_rows<8, 1>, dot_rows<1, 1>},
                                                      {8, dot_rows<8, 2>, dot_rows<1, 2>},
                                                      {4, dot_rows<4, 3>, dot_rows<1, 3>},
                                                      {4, dot_rows<4, 4>, dot_rows<1, 4>}};
  return kKernels[tokens - 1];
}

}  // namespace tangram
