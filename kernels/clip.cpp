#include "kernels/clip.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/check.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

constexpr int64_t kBlock = 8192;  // elements of one partial sum

double sum_squares(const float* x, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += double(x[i]) * double(x[i]);
  return sum;
}

void check(const Tensor& g, const Context& ctx) {
  check_tensor("grad", g, g.rows, g.cols, DType::f32);
  on_cuda(ctx, {g});
  CHECK(g.contiguous(), "grad ({}, {}) has rows {} apart", g.rows, g.cols, g.stride);
}

double norm_on_cpu(std::span<const Tensor> grads, Context& ctx) {
  int64_t blocks = 0;
  for (const Tensor& g : grads) blocks += ceil_div(g.size(), kBlock);
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

// In planning, zeros.
std::vector<double> norms_on_cuda(std::span<const std::vector<Tensor>> groups, Context& ctx) {
  std::vector<cuda::ClipEntry> table;
  std::vector<int64_t> starts = {0};
  for (const std::vector<Tensor>& grads : groups) {
    int64_t block = starts.back();
    for (const Tensor& g : grads) {
      if (g.size() > 0) table.push_back({g.as<float>(), g.size(), block});
      block += ceil_div(g.size(), cuda::kClipBlock);
    }
    starts.push_back(block);
  }
  const ArenaScope scope(ctx.scratch);
  const Tensor sent_table = send_bytes(std::span<const cuda::ClipEntry>(table), ctx.scratch, ctx);
  const Tensor sent_starts = send_bytes(std::span<const int64_t>(starts), ctx.scratch, ctx);
  const Tensor partial = ctx.scratch.tensor(starts.back(), sizeof(double), DType::u8);
  const Tensor sums = ctx.scratch.tensor(std::ssize(groups), sizeof(double), DType::u8);
  std::vector<double> norms(groups.size());
  if constexpr (kCudaBuilt)
    if (!ctx.planning() && !groups.empty())
      cuda::sums_of_squares(sums.as<double>(), sent_starts, sent_table, partial.as<double>(), starts.back(), ctx);
  transfer(view_of(reinterpret_cast<uint8_t*>(norms.data()), sums.rows, sums.cols), sums, ctx);
  for (double& n : norms) n = std::sqrt(n);
  return norms;
}

}  // namespace

double gradient_norm(std::span<const Tensor> grads, Context& ctx) {
  const std::vector<Tensor> group(grads.begin(), grads.end());
  return gradient_norms({&group, 1}, ctx)[0];
}

std::vector<double> gradient_norms(std::span<const std::vector<Tensor>> groups, Context& ctx) {
  for (const std::vector<Tensor>& grads : groups)
    for (const Tensor& g : grads) check(g, ctx);
  if (ctx.device == Device::cuda) return norms_on_cuda(groups, ctx);
  std::vector<double> norms;
  for (const std::vector<Tensor>& grads : groups) norms.push_back(ctx.planning() ? 0 : norm_on_cpu(grads, ctx));
  return norms;
}

double clip_factor(double norm, double max_norm) {
  CHECK(max_norm > 0, "max_norm {}; must be positive", max_norm);
  CHECK(std::isfinite(norm), "norm {} of the gradient; such a step must be skipped", norm);
  return norm > max_norm ? max_norm / norm : 1;
}

}  // namespace tangram
