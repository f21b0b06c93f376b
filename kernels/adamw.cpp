#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/check.h"
#include "kernels/fast_math.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

constexpr int64_t kBlock = 2048;  // elements: master, moments, gradient and copy of a block stay in the L1 or L2 cache

AdamWCoefficients coefficients(const AdamWTensor& t, const AdamWStep& s) {
  const double rate = s.learning_rate * t.learning_rate_factor, step = double(s.step);
  return {.grad_scale = float(s.grad_scale * t.grad_scale),
          .beta1 = float(s.beta1),
          .beta2 = float(s.beta2),
          .rest1 = float(1 - s.beta1),
          .rest2 = float(1 - s.beta2),
          .decay = float(rate * t.weight_decay),
          .step_size = float(rate / (1 - std::pow(s.beta1, step))),
          .root_scale = float(1 / std::sqrt(1 - std::pow(s.beta2, step))),
          .epsilon = float(s.epsilon)};
}

void update(float* w, float* m, float* v, const float* grad, int64_t count, const AdamWCoefficients& k) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float g = k.grad_scale * grad[i];
    m[i] = k.beta1 * m[i] + k.rest1 * g;
    v[i] = k.beta2 * v[i] + k.rest2 * g * g;
    w[i] -= k.decay * w[i] + k.step_size * m[i] / (k.root_scale * fast_sqrt(v[i]) + k.epsilon);
  }
}

template <class T>
void store(T* copy, const float* w, int64_t count) {
  for (int64_t i = 0; i < count; ++i) copy[i] = T(w[i]);
}

void check(const AdamWTensor& t) {
  const Tensor& w = t.master;
  for (const auto& [name, x] :
       {std::pair{"master", w}, {"moment1", t.moment1}, {"moment2", t.moment2}, {"grad", t.grad}}) {
    check_tensor(name, x, w.rows, w.cols, DType::f32);
    CHECK(x.contiguous(), "{} ({}, {}) has rows {} apart", name, x.rows, x.cols, x.stride);
  }
  if (!t.copy.data) return;
  CHECK(t.copy.dtype == DType::f32 || t.copy.dtype == DType::bf16, "copy is {}; must be f32 or bf16",
        name_of(t.copy.dtype));
  check_tensor("copy", t.copy, w.rows, w.cols, t.copy.dtype);
  CHECK(t.copy.contiguous(), "copy ({}, {}) has rows {} apart", w.rows, w.cols, t.copy.stride);
}

void adamw_on_cuda(std::span<const AdamWTensor> tensors, const AdamWStep& step, Context& ctx) {
  std::vector<cuda::AdamWEntry> table;
  int64_t blocks = 0;
  for (const AdamWTensor& t : tensors) {
    const int64_t size = t.master.size();
    if (size == 0) continue;
    table.push_back({t.master.as<float>(), t.moment1.as<float>(), t.moment2.as<float>(), t.grad.as<float>(),
                     t.copy.data, t.copy.dtype, size, blocks, coefficients(t, step)});
    blocks += ceil_div(size, cuda::kAdamWBlock);
  }
  const ArenaScope scope(ctx.scratch);
  const Tensor sent = send_bytes(std::span<const cuda::AdamWEntry>(table), ctx.scratch, ctx);
  if constexpr (kCudaBuilt)
    if (blocks > 0 && !ctx.planning()) cuda::adamw(sent, blocks, step.zero_grads, ctx);
}

}  // namespace

void adamw(std::span<const AdamWTensor> tensors, const AdamWStep& step, Context& ctx) {
  CHECK(step.step >= 1, "step {}; the first is 1", step.step);
  CHECK(step.beta1 >= 0 && step.beta1 < 1 && step.beta2 >= 0 && step.beta2 < 1, "beta1 {}, beta2 {}; must be in [0, 1)",
        step.beta1, step.beta2);
  CHECK(step.epsilon > 0, "epsilon {}; must be positive", step.epsilon);
  for (const AdamWTensor& t : tensors) {
    check(t);
    on_cuda(ctx, {t.master, t.moment1, t.moment2, t.grad, t.copy});
  }
  if (ctx.device == Device::cuda) return adamw_on_cuda(tensors, step, ctx);
  if (ctx.planning()) return;

#pragma omp parallel num_threads(ctx.threads)
  for (const AdamWTensor& t : tensors) {
    const AdamWCoefficients k = coefficients(t, step);
    const int64_t size = t.master.size();
#pragma omp for schedule(static) nowait
    for (int64_t first = 0; first < size; first += kBlock) {
      const int64_t count = std::min(kBlock, size - first);
      float *w = t.master.as<float>() + first, *grad = t.grad.as<float>() + first;
      update(w, t.moment1.as<float>() + first, t.moment2.as<float>() + first, grad, count, k);
      if (step.zero_grads) std::fill_n(grad, count, 0.0f);
      if (t.copy.data) dispatch(t.copy.dtype, [&]<class T>() { store(t.copy.as<T>() + first, w, count); });
    }
  }
}

}  // namespace tangram
