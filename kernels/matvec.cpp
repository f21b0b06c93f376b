#include "kernels/matvec.h"

#include <algorithm>

#include "kernels/lanes.h"

namespace tangram {
namespace {

/// Elements of w that one load takes.
template <class T>
constexpr int kGroup = sizeof(Lanes) / sizeof(T);

/// x in f32, in the order in which dot_rows meets w: of each whole group first the even elements, then the odd ones.
void widen(float* out, const bf16* x, int64_t K) {
  constexpr int kHalf = kGroup<bf16> / 2;
  const int64_t whole = K / kGroup<bf16> * kGroup<bf16>;
  for (int64_t k = 0; k < whole; k += kGroup<bf16>)
    for (int i = 0; i < kHalf; ++i) out[k + i] = x[k + 2 * i], out[k + kHalf + i] = x[k + 2 * i + 1];
  for (int64_t k = whole; k < K; ++k) out[k] = x[k];
}

constexpr int kSecondLevel = 2;  // of cache, where the next rows fit whatever K is

/// sums[r][n] = w[r] . x[n] for R rows of w and N of x: one pass over w, and each load of x serves R rows.
template <int R, int N, class T>
void dot_rows(float sums[R][N], const T* w, int64_t stride_w, const float* x, int64_t stride_x, int64_t K) {
  Lanes acc[R][N] = {};
  int64_t k = 0;
  for (; k + kGroup<T> <= K; k += kGroup<T>)
    for (int r = 0; r < R; ++r) {
      const T* wr = w + r * stride_w + k;
      __builtin_prefetch(wr + R * stride_w, 0, kSecondLevel);  // the next rows: the hardware restarts at each row
      for (int n = 0; n < N; ++n) {
        const float* xn = x + n * stride_x + k;
        if constexpr (sizeof(T) == sizeof(float)) {
          acc[r][n] += load(wr) * load(xn);
        } else {
          acc[r][n] += load_even(wr) * load(xn);
          acc[r][n] += load_odd(wr) * load(xn + kLanes);
        }
      }
    }
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) {
      float sum = lane_sum(acc[r][n]);
      for (int64_t tail = k; tail < K; ++tail)
        sum += static_cast<float>(w[r * stride_w + tail]) * x[n * stride_x + tail];
      sums[r][n] = sum;
    }
}

/// Rows [first, first + R) of w.
template <int R, int N, class T, class Y>
void multiply_rows(Tensor y, Tensor x, Tensor w, int64_t first, bool accumulate) {
  float sums[R][N];
  dot_rows<R, N>(sums, w.row<T>(first), w.stride, x.as<float>(), x.stride, w.cols);
  for (int n = 0; n < N; ++n)
    for (int r = 0; r < R; ++r) {
      Y& out = y.row<Y>(n)[first + r];
      out = Y(accumulate ? static_cast<float>(out) + sums[r][n] : sums[r][n]);
    }
}

template <int N, class T, class Y>
void multiply(Tensor y, Tensor x, Tensor w, bool accumulate, int threads) {
  constexpr int R = N == 1   ? 8
                    : N == 4 ? 2
                             : 4;  // R * N sums stay in registers and hide the latency of the multiply-add
  const int64_t blocks = w.rows / R;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < blocks; ++block) multiply_rows<R, N, T, Y>(y, x, w, block * R, accumulate);
  for (int64_t o = blocks * R; o < w.rows; ++o) multiply_rows<1, N, T, Y>(y, x, w, o, accumulate);
}

}  // namespace

void matvec(Tensor y, Tensor x, Tensor w, bool accumulate, Context& ctx) {
  CHECK(x.rows >= 1 && x.rows <= kMatvecRows, "{} rows; matvec takes 1 to {}", x.rows, kMatvecRows);
  constexpr int64_t kWorthAThread = 1 << 14;  // elements of w; starting a thread costs about as much as reading these
  const int threads = static_cast<int>(std::clamp<int64_t>(w.size() / kWorthAThread, 1, ctx.threads));
  const ArenaScope scope(ctx.scratch);
  Tensor wide = x;
  if (x.dtype == DType::bf16) {
    wide = ctx.scratch.tensor(x.rows, x.cols, DType::f32);
    for (int64_t n = 0; n < x.rows; ++n) widen(wide.row<float>(n), x.row<bf16>(n), x.cols);
  }
  dispatch(x.dtype, [&]<class T>() {
    dispatch(y.dtype, [&]<class Y>() {
      switch (x.rows) {
        case 1:
          return multiply<1, T, Y>(y, wide, w, accumulate, threads);
        case 2:
          return multiply<2, T, Y>(y, wide, w, accumulate, threads);
        case 3:
          return multiply<3, T, Y>(y, wide, w, accumulate, threads);
        default:
          return multiply<4, T, Y>(y, wide, w, accumulate, threads);
      }
    });
  });
}

}  // namespace tangram
