#include "kernels/matvec.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/lanes.h"
#include "kernels/matvec_rows.h"
#include "kernels/row_walk.h"
#include "kernels/tile.h"

namespace tangram {
namespace {

/// Elements of w that one load takes.
template <class T>
constexpr int kGroup = sizeof(Lanes) / sizeof(T);

/// x in f32, in the order in which dot_rows meets w: of each group of its steps first the even elements, then the odd.
void widen(float* out, const bf16* x, int64_t K) {
  constexpr int kHalf = kGroup<bf16> / 2;
  const int64_t whole = K / RowWalk<1, bf16>::kStep * RowWalk<1, bf16>::kStep;
  for (int64_t k = 0; k < whole; k += kGroup<bf16>)
    for (int i = 0; i < kHalf; ++i) out[k + i] = x[k + 2 * i], out[k + kHalf + i] = x[k + 2 * i + 1];
  for (int64_t k = whole; k < K; ++k) out[k] = x[k];
}

/// x is f32, in the order of widen if w is bf16. R * N sums stay in registers and hide the latency of the multiply-add.
template <int R, int N, class T>
void dot_rows(float* sums, const Tensor& w, int64_t first, const Tensor& x) {
  const T* rows = w.row<T>(first);
  Lanes acc[R][N] = {};
  RowWalk<R, T> walk(rows, w.stride, w.cols);
  for (; walk.more(); walk.step())
    for (int r = 0; r < R; ++r) {
      walk.prefetch();
      for (int64_t k = walk.column(); k < walk.column() + walk.kStep; k += kGroup<T>)
        for (int n = 0; n < N; ++n) {
          const T* wr = rows + r * w.stride + k;
          const float* xn = x.row<float>(n) + k;
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
      for (int64_t k = walk.column(); k < w.cols; ++k)
        sum += static_cast<float>(rows[r * w.stride + k]) * x.row<float>(n)[k];
      sums[r * N + n] = sum;
    }
}

template <class T>
RowKernel row_kernel(int64_t tokens) {
  static constexpr RowKernel kKernels[kMatvecRows] = {{8, dot_rows<8, 1, T>, dot_rows<1, 1, T>},
                                                      {4, dot_rows<4, 2, T>, dot_rows<1, 2, T>},
                                                      {4, dot_rows<4, 3, T>, dot_rows<1, 3, T>},
                                                      {2, dot_rows<2, 4, T>, dot_rows<1, 4, T>}};
  return kKernels[tokens - 1];
}

template <class Y>
void multiply(Tensor y, Tensor x, Tensor w, const RowKernel& kernel, bool accumulate, int threads) {
  const int64_t R = kernel.rows, N = x.rows;
  const auto put = [&](int64_t o, const float* sums) {
    for (int64_t n = 0; n < N; ++n) {
      Y& out = y.row<Y>(n)[o];
      out = Y(accumulate ? static_cast<float>(out) + sums[n] : sums[n]);
    }
  };
  float sums[RowKernel::kMaxSums];
#pragma omp parallel for num_threads(threads) schedule(static) private(sums)
  for (int64_t first = 0; first < w.rows / R * R; first += R) {
    kernel.block(sums, w, first, x);
    for (int64_t r = 0; r < R; ++r) put(first + r, sums + r * N);
  }
  for (int64_t o = w.rows / R * R; o < w.rows; ++o) kernel.one(sums, w, o, x), put(o, sums);
}

}  // namespace

void matvec(Tensor y, Tensor x, Tensor w, bool accumulate, Context& ctx) {
  const int64_t most = matvec_rows(ctx.device);
  CHECK(x.rows >= 1 && x.rows <= most, "{} rows; matvec takes 1 to {}", x.rows, most);
  if constexpr (kCudaBuilt)
    if (ctx.device == Device::cuda) {
      if (!ctx.planning() && on_cuda(ctx, {y, x, w})) cuda::matvec(y, x, w, {.accumulate = accumulate}, ctx);
      return;
    }
  constexpr int64_t kWorthAThread = 1 << 14;  // elements of w; starting a thread costs about as much as reading these
  const int threads = static_cast<int>(std::clamp<int64_t>(w.size() / kWorthAThread, 1, ctx.threads));
  const ArenaScope scope(ctx.scratch);
  const bool bf16_products = x.dtype == DType::bf16 && has_bf16_products();
  Tensor operand = x;
  if (x.dtype == DType::bf16 && !bf16_products) {
    operand = ctx.scratch.tensor(x.rows, x.cols, DType::f32);
    if (!ctx.planning())
      for (int64_t n = 0; n < x.rows; ++n) widen(operand.row<float>(n), x.row<bf16>(n), x.cols);
  }
  if (ctx.planning()) return;
  dispatch(x.dtype, [&]<class T>() {
    const RowKernel kernel = bf16_products ? row_kernel_bf16(x.rows) : row_kernel<T>(x.rows);
    dispatch(y.dtype, [&]<class Y>() { multiply<Y>(y, operand, w, kernel, accumulate, threads); });
  });
}

}  // namespace tangram
