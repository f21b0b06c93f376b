#include "kernels/peak.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/random.h"
#include "kernels/transfer.h"

namespace tangram {

double matmul_gflops(DType dtype, Context& ctx) {
  const int64_t size = ctx.device == Device::cuda ? 8192 : 2048;
  Arena arena(size * size * 4 * 3 + 4096, ctx.device);
  const Tensor a = arena.tensor(size, size, dtype), b = arena.tensor(size, size, dtype);
  const Tensor c = arena.tensor(size, size, DType::f32);
  fill_for_measuring(a, 0, 1, 1, ctx), fill_for_measuring(b, 0, 1, 2, ctx);
  const double seconds = best_seconds(9, [&] {
    matmul(c, a, Transpose::no, b, Transpose::yes, false, ctx);
    synchronize(ctx);
  });
  return 2.0 * double(size) * double(size) * double(size) / seconds * 1e-9;
}

static double copy_gb_per_s(std::span<const Tensor> tensors, int repeats, Context& ctx) {
  int64_t bytes = 0, largest = 0;
  for (const Tensor& t : tensors) bytes += t.bytes(), largest = std::max(largest, t.bytes());
  Arena arena(largest, ctx.device);
  const Tensor copied = arena.tensor(1, largest, DType::u8);
  const double seconds = best_seconds(repeats, [&] {
    for (const Tensor& t : tensors) {
      Tensor raw = t.reshape(1, t.size());
      raw.cols = raw.stride = t.bytes(), raw.dtype = DType::u8;
      copy(copied.col_range(0, raw.cols), raw, ctx);
    }
    synchronize(ctx);
  });
  return 2 * double(bytes) / seconds * 1e-9;
}

double read_gb_per_s(std::span<const Tensor> tensors, int repeats, Context& ctx) {
  if (ctx.device == Device::cuda) return copy_gb_per_s(tensors, repeats, ctx);
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
  Arena arena(kBytes, ctx.device);
  const Tensor x = arena.tensor(1, kBytes / 4, DType::f32);
  fill_for_measuring(x, 0, 1, 1, ctx);  // pages that were never written are one page of zeros
  return read_gb_per_s(std::span(&x, 1), 12, ctx);
}

Peak measure_peak(Context& ctx) {
  return {matmul_gflops(DType::f32, ctx), matmul_gflops(DType::bf16, ctx), read_gb_per_s(ctx)};
}

}  // namespace tangram
