#include "kernels/magnitudes.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace tangram {

constexpr int64_t kLineFloats = 16;

void add_column_magnitudes(Tensor sum, Tensor x, Context& ctx) {
  check_tensor("sum", sum, 1, x.cols, DType::f32);
  const ArenaScope scope(ctx.scratch);
  const bool on_gpu = ctx.device == Device::cuda;
  const Tensor partial =
      ctx.scratch.tensor(std::min(x.rows, cuda::kMagnitudePartials), on_gpu ? x.cols : 0, DType::f32);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {sum, x})) return cuda::add_column_magnitudes(sum, x, partial, ctx);
  // A thread owns columns.
  const int64_t columns = round_up(ceil_div(x.cols, ctx.threads), kLineFloats), slices = ceil_div(x.cols, columns);
  dispatch(x.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
    for (int64_t slice = 0; slice < slices; ++slice) {
      const int64_t first = slice * columns, last = std::min(first + columns, x.cols);
      float* s = sum.as<float>();
      for (int64_t n = 0; n < x.rows; ++n) {
        const T* xn = x.row<T>(n);
#pragma GCC ivdep
        for (int64_t c = first; c < last; ++c) s[c] += std::abs(float(xn[c]));
      }
    }
  });
}

}  // namespace tangram
