#pragma once
#include <chrono>
#include <span>

#include "kernels/context.h"

namespace tangram {

/// Seconds of the fastest of `repeats` calls: on a shared machine the least disturbed one.
template <class F>
double best_seconds(int repeats, F&& call) {
  double best = 0;
  for (int r = 0; r < repeats; ++r) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (r == 0 || seconds < best) best = seconds;
  }
  return best;
}

/// Rate of the matmul library: a (2048, 2048) x (2048, 2048) product through `matmul`; on a GPU of (8192, 8192), which
/// fills it.
double matmul_gflops(DType dtype, Context& ctx);

/// Rate of reading the memory of `tensors` (contiguous) one after the other: every thread sums its part of each. Where
/// memory lies decides how fast it is read, so compare an operation with the rate of its own operands. On a GPU they
/// are copied, and bytes read and written count.
double read_gb_per_s(std::span<const Tensor> tensors, int repeats, Context& ctx);

/// The same of 512 MiB.
double read_gb_per_s(Context& ctx);

/// What this machine can do, in units that measured speeds are compared with.
struct Peak {
  double f32_gflops, bf16_gflops, read_gb_per_s;
  double gflops(DType dtype) const { return dtype == DType::f32 ? f32_gflops : bf16_gflops; }
};
Peak measure_peak(Context& ctx);

}  // namespace tangram
