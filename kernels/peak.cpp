#include "kernels/peak.h"

#include "kernels/matmul.h"

namespace tangram {

double matmul_gflops(DType dtype, Context& ctx) {
  constexpr int64_t kSize = 2048;
  Arena arena(kSize * kSize * 4 * 3 + 4096);
  const Tensor a = arena.tensor(kSize, kSize, dtype), b = arena.tensor(kSize, kSize, dtype);
  const Tensor c = arena.tensor(kSize, kSize, DType::f32);
  fill_zero(a), fill_zero(b);
  const double seconds = best_seconds(9, [&] { matmul(c, a, Transpose::no, b, Transpose::yes, false, ctx); });
  return 2.0 * kSize * kSize * kSize / seconds * 1e-9;
}

double read_gb_per_s(std::span<const Tensor> tensors, int repeats, Context& ctx) {
  using Lanes = uint64_t __attribute__((vector_size(32), aligned(1), may_alias));
  constexpr int64_t kLanes = 8;  // of one step
  uint64_t total = 0;
  int64_t bytes = 0;
  for (const Tensor& t : tensors) bytes += t.bytes();
  const double seconds = best_seconds(repeats, [&] {
#pragma omp parallel num_threads(ctx.threads) reduction(+ : total)
    for (const Tensor& t : tensors) {
      const auto* data = t.as<const Lanes>();
      const auto count = t.bytes() / int64_t{sizeof(Lanes)} / kLanes * kLanes;
#pragma omp for schedule(static) nowait
      for (int64_t i = 0; i < count; i += kLanes) {
        Lanes sum = data[i];
        for (int64_t j = 1; j < kLanes; ++j) sum += data[i + j];
        total += sum[0] + sum[1] + sum[2] + sum[3];
      }
    }
  });
  volatile uint64_t keep = total;  // or the compiler drops the reads
  static_cast<void>(keep);
  return double(bytes) / seconds * 1e-9;
}

double read_gb_per_s(Context& ctx) {
  constexpr int64_t kBytes = int64_t{512} << 20;
  Arena arena(kBytes);
  const Tensor x = arena.tensor(1, kBytes, DType::u8);
  std::memset(x.data, 1, kBytes);  // pages that were never written are one page of zeros
  return read_gb_per_s(std::span(&x, 1), 12, ctx);
}

Peak measure_peak(Context& ctx) {
  return {matmul_gflops(DType::f32, ctx), matmul_gflops(DType::bf16, ctx), read_gb_per_s(ctx)};
}

}  // namespace tangram
