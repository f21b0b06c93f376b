#include "kernels/adamw.h"

#include "kernels/multi_tensor.cuh"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 256;

/// N neighbouring elements, with the loads of all four arrays in flight together.
template <int N>
__device__ void update(const AdamWEntry& t, int64_t i, bool zero_grads) {
  using P = Pack<float, N>;
  const auto at = [i](float* x) -> P& { return *reinterpret_cast<P*>(x + i); };
  P w = at(t.master), m = at(t.moment1), v = at(t.moment2);
  const P grad = at(t.grad);
  const AdamWCoefficients& k = t.k;
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float g = k.grad_scale * grad.v[j];
    m.v[j] = k.beta1 * m.v[j] + k.rest1 * g;
    v.v[j] = k.beta2 * v.v[j] + k.rest2 * g * g;
    w.v[j] -= k.decay * w.v[j] + k.step_size * m.v[j] / (k.root_scale * sqrtf(v.v[j]) + k.epsilon);
  }
  at(t.master) = w, at(t.moment1) = m, at(t.moment2) = v;
  if (zero_grads) at(t.grad) = P{};
  if (!t.copy) return;
  if (t.copy_dtype == DType::f32) {
    at(static_cast<float*>(t.copy)) = w;
  } else {
    Pack<__nv_bfloat16, N> rounded;
    for (int j = 0; j < N; ++j) rounded.v[j] = from_float<__nv_bfloat16>(w.v[j]);
    *reinterpret_cast<Pack<__nv_bfloat16, N>*>(static_cast<__nv_bfloat16*>(t.copy) + i) = rounded;
  }
}

__device__ bool aligned(const AdamWEntry& t) {
  const auto bits = [](const void* p) { return reinterpret_cast<uintptr_t>(p); };
  return (bits(t.master) | bits(t.moment1) | bits(t.moment2) | bits(t.grad) | bits(t.copy)) % 16 == 0;
}

__global__ void __launch_bounds__(kThreads, 4) adamw_kernel(const AdamWEntry* table, int64_t entries, bool zero_grads) {
  constexpr int kPack = 4;
  const AdamWEntry t = entry_of_block(table, entries, blockIdx.x);
  const int64_t first = (blockIdx.x - t.first_block) * kAdamWBlock, last = min(t.size, first + kAdamWBlock);
  if (aligned(t)) {
    int64_t i = first + threadIdx.x * kPack;
    for (; i + kPack <= last; i += kThreads * kPack) update<kPack>(t, i, zero_grads);
    for (; i < last; ++i) update<1>(t, i, zero_grads);  // at most three elements of one thread
  } else {
    for (int64_t i = first + threadIdx.x; i < last; i += kThreads) update<1>(t, i, zero_grads);
  }
}

}  // namespace

void adamw(Tensor table, int64_t blocks, bool zero_grads, Context& ctx) {
  launch(adamw_kernel, unsigned(blocks), kThreads, ctx, table.as<AdamWEntry>(),
         table.cols / int64_t{sizeof(AdamWEntry)}, zero_grads);
}

}  // namespace tangram::cuda
