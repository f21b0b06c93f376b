#include "blocks/initialise.h"

#include <cmath>

#include "kernels/least_squares.h"
#include "kernels/random.h"

namespace tangram {

static double standard_deviation(Tensor w) {
  double sum = 0, sum_squares = 0;
  dispatch(w.dtype, [&]<class T>() {
    for (int64_t r = 0; r < w.rows; ++r)
      for (int64_t c = 0; c < w.cols; ++c) {
        const double v = float(w.row<T>(r)[c]);
        sum += v, sum_squares += v * v;
      }
  });
  const double n = double(w.size());
  return std::sqrt(std::max(0.0, sum_squares / n - (sum / n) * (sum / n)));
}

void init_random(std::span<const Weight> child, std::span<const Weight> teacher, uint64_t seed) {
  for (size_t i = 0; i < child.size(); ++i) {
    const Weight& like = i + 1 == child.size() ? teacher.back() : teacher[i];
    const double deviation = standard_deviation(like.values);
    const Tensor w = child[i].values;
    dispatch(w.dtype, [&]<class T>() {
      for (int64_t r = 0; r < w.rows; ++r)
        for (int64_t c = 0; c < w.cols; ++c)
          w.row<T>(r)[c] = T(float(deviation * random_normal(seed, i, static_cast<uint64_t>(r * w.cols + c))));
    });
  }
}

void init_linear_least_squares(Tensor w, const SubblockStatistics& statistics, Context& ctx) {
  const int64_t H = w.rows;
  ArenaScope scope(ctx.scratch);
  const Tensor transposed = ctx.scratch.tensor(H, H, DType::f32);
  solve_least_squares(transposed, statistics.xx, statistics.xy, kRelativeRidge, ctx);
  dispatch(w.dtype, [&]<class T>() {
    for (int64_t o = 0; o < H; ++o)
      for (int64_t i = 0; i < H; ++i) w.row<T>(o)[i] = T(transposed.row<float>(i)[o]);
  });
}

void init_product(Tensor w, Tensor a, Tensor b, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const Tensor product = ctx.scratch.tensor(w.rows, w.cols, DType::f32);
  matmul(product, a, Transpose::no, b, Transpose::no, false, ctx);
  copy(w, product);
}

}  // namespace tangram
