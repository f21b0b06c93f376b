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

double read_gb_per_s(Context& ctx) {
  using Lanes = uint64_t __attribute__((vector_size(32)));
  constexpr int64_t kLanes = (int64_t{512} << 20) / sizeof(Lanes);
  constexpr int kRepeats = 12;
  Arena arena(kLanes * int64_t{sizeof(Lanes)});
  Lanes* data = static_cast<Lanes*>(arena.tensor(kLanes, sizeof(Lanes), DType::u8).data);
  for (int64_t i = 0; i < kLanes; ++i) data[i] = Lanes{1, 1, 1, 1};
  uint64_t total = 0;
  const double seconds = best_seconds(kRepeats, [&] {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) reduction(+ : total)
    for (int64_t i = 0; i < kLanes; i += 8) {
      Lanes sum = data[i];
      for (int64_t j = 1; j < 8; ++j) sum += data[i + j];
      total += sum[0] + sum[1] + sum[2] + sum[3];
    }
  });
  CHECK(total == uint64_t{kRepeats} * 4 * kLanes, "the sum was not computed");
  return double(kLanes * sizeof(Lanes)) / seconds * 1e-9;
}

Peak measure_peak(Context& ctx) {
  return {matmul_gflops(DType::f32, ctx), matmul_gflops(DType::bf16, ctx), read_gb_per_s(ctx)};
}

}  // namespace tangram
