#include "kernels/clip.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/check.h"

namespace tangram {
namespace {

constexpr int64_t kBlock = 8192;  // elements of one partial sum

double sum_squares(const float* x, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += double(x[i]) * double(x[i]);
  return sum;
}

}  // namespace

double gradient_norm(std::span<const Tensor> grads, Context& ctx) {
  int64_t blocks = 0;
  for (const Tensor& g : grads) {
    check_tensor("grad", g, g.rows, g.cols, DType::f32);
    CHECK(g.contiguous(), "grad ({}, {}) has rows {} apart", g.rows, g.cols, g.stride);
    blocks += ceil_div(g.size(), kBlock);
  }
  if (ctx.planning()) return 0;
  std::vector<double> partial(static_cast<size_t>(blocks));
#pragma omp parallel num_threads(ctx.threads)
  for (double* sums = partial.data(); const Tensor& g : grads) {
    const int64_t size = g.size(), count = ceil_div(size, kBlock);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < count; ++i)
      sums[i] = sum_squares(g.as<float>() + i * kBlock, std::min(kBlock, size - i * kBlock));
    sums += count;
  }
  return std::sqrt(std::accumulate(partial.begin(), partial.end(), 0.0));
}

double clip_factor(double norm, double max_norm) {
  CHECK(max_norm > 0, "max_norm {}; must be positive", max_norm);
  CHECK(std::isfinite(norm), "norm {} of the gradient; such a step must be skipped", norm);
  return norm > max_norm ? max_norm / norm : 1;
}

}  // namespace tangram
