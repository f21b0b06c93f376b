#include "tests/benchmarks/harness.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda_devices.h"
#include "kernels/elementwise.h"
#include "kernels/graph.h"
#include "kernels/matmul.h"
#include "kernels/matmul_cuda.h"
#include "kernels/peak.h"
#include "kernels/random.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

constexpr int64_t kMatmulSize = 8192;
constexpr int64_t kCopyBytes = int64_t{2} << 30;

std::string format_time(double seconds) {
  return seconds < 1e-3 ? fmt::format("{:.2f} us", seconds * 1e6) : fmt::format("{:.3f} ms", seconds * 1e3);
}

std::string format_rate(double rate, Unit unit) {
  const bool tera = rate >= 1e12;
  return fmt::format("{:.{}f} {}{}", rate / (tera ? 1e12 : 1e9), tera && unit == Unit::bytes ? 2 : 1, tera ? "T" : "G",
                     unit == Unit::flops ? "FLOP/s" : "B/s");
}

}  // namespace

Bench::Bench(BenchOptions o) : options(std::move(o)) {
  const int64_t scratch = int64_t{options.tiny ? 1 : 16} << 30;
  context.emplace(Context::Options{.device = options.device, .scratch_bytes = scratch});
  if (options.device == Device::cpu) return;
  fmt::print(stderr, "{}\n", cuda_devices()[0].name);
  // As in a run, but that nobody keeps the choices.
  if constexpr (kCudaBuilt)
    if (!options.tiny)
      cuda::choose_matmuls(
          0, [] {}, *context);
}

double Bench::seconds(const std::function<void()>& call, double least_run, int runs) {
  const auto timed = [&](int calls) {
    const double seconds = best_seconds(1, [&] {
      for (int i = 0; i < calls; ++i) call();
      synchronize(*context);
    });
    return seconds / calls;
  };
  timed(1);
  const double once = timed(1);
  if (options.tiny) least_run = 0, runs = 1;
  const int calls = std::clamp(int(std::ceil(least_run / once)), 1, 10000);
  if (once > 1) runs = std::min(runs, 3);
  std::vector<double> seconds;
  for (int i = 0; i < runs; ++i) seconds.push_back(timed(calls));
  std::sort(seconds.begin(), seconds.end());
  return seconds[options.device == Device::cuda ? seconds.size() / 2 : 0];
}

double Bench::graph_seconds(int calls, const std::function<void(int)>& call) {
  Graph graph([&] {
    for (int i = 0; i < calls; ++i) call(i);
  });
  return seconds([&] { graph.launch(*context); }) / calls;
}

const Ceilings& Bench::ceilings(DType dtype) {
  const auto known = ceilings_.find(dtype);
  if (known != ceilings_.end()) return known->second;
  return ceilings_[dtype] = measure_ceilings(dtype);
}

Ceilings Bench::measure_ceilings(DType dtype) {
  Context& ctx = *context;
  if (options.device == Device::cpu)
    return options.tiny ? Ceilings{1e9, 1e9} : Ceilings{matmul_gflops(dtype, ctx) * 1e9, read_gb_per_s(ctx) * 1e9};
  const int64_t size = options.tiny ? 256 : kMatmulSize, bytes = options.tiny ? 1 << 20 : kCopyBytes;
  Arena memory = arena(3 * size * size * size_of(dtype) + 2 * bytes + 4096);
  const Tensor a = random(memory, size, size, dtype), b = random(memory, size, size, dtype);
  const Tensor c = memory.tensor(size, size, dtype);
  const double product = seconds([&] { matmul(c, a, Transpose::no, b, Transpose::yes, false, ctx); }, 20e-3);
  const Tensor from = random(memory, 1, bytes / 4, DType::f32), to = memory.tensor(1, bytes / 4, DType::f32);
  // The faster of CUDA's own copy and of the kernel.
  const double copied = std::min(seconds([&] { transfer(to, from, ctx); }), seconds([&] { copy(to, from, ctx); }));
  const double operations = 2 * std::pow(double(size), 3);
  add({"ceiling: matmul", fmt::format("{0} x {0} x {0}", size), dtype, product, operations, Unit::flops,
       fmt::format("matmul:{0},{0},{0}", size)});
  add({"ceiling: copy", fmt::format("{} MiB", bytes >> 20), DType::f32, copied, 2.0 * double(bytes), Unit::bytes});
  return {operations / product, 2 * double(bytes) / copied};
}

void Bench::fill(Tensor x, double deviation, double mean) {
  fill_for_measuring(x, mean, std::sqrt(3.0) * deviation, seed_++, *context);
}

Tensor Bench::random(Arena& arena, int64_t rows, int64_t cols, DType dtype, double deviation) {
  const Tensor x = arena.tensor(rows, cols, dtype);
  fill(x, deviation);
  return x;
}

Model Bench::random_model(const ModelConfig& config, const Architecture& architecture, DType dtype) {
  Model model = make_model(config, architecture, dtype, options.device);
  for (const NamedTensor& t : named_tensors(model)) {
    const bool is_norm = t.tensor.rows == 1;
    fill(t.tensor, is_norm ? 0.1 : 1 / std::sqrt(double(t.tensor.cols)), is_norm);
  }
  return model;
}

std::string Bench::line(const BenchRow& row) {
  const double rate = row.work / row.seconds;
  double bound = row.bound;
  if (const auto known = ceilings_.find(row.dtype); bound == 0 && known != ceilings_.end())
    bound = row.unit == Unit::flops ? known->second.flops : known->second.bytes;
  const std::string part = bound > 0 ? fmt::format("{:.3f}", rate / bound) : "";
  std::string peers;
  for (const PeerTime& p : row.peers)
    peers += fmt::format("{}{:.2f} x {}", peers.empty() ? "" : "; ", p.seconds / row.seconds, p.name);
  return fmt::format("| {:<32} | {:<48} | {:<4} | {:>10} | {:>13} | {:>5} | {} |", row.what, row.shape,
                     name_of(row.dtype), format_time(row.seconds), format_rate(rate, row.unit), part, peers);
}

void Bench::add(const BenchRow& row) {
  fmt::print(stderr, "{}\n", line(row));
  rows_.push_back(row);
}

void Bench::finish() {
  const int threads = context->threads;
  context.reset();
  if (rows_.empty()) return;
  for (const DType dtype : options.dtypes) {
    std::vector<std::string> works;
    for (const BenchRow& row : rows_)
      if (row.dtype == dtype && !row.peer_work.empty()) works.push_back(row.peer_work);
    const auto times = time_peers(works, {options.device, dtype, threads, options.peer_seconds});
    for (BenchRow& row : rows_)
      if (const auto found = times.find(row.peer_work); row.dtype == dtype && found != times.end())
        row.peers.insert(row.peers.end(), found->second.begin(), found->second.end());
  }
  fmt::print("| {:<32} | {:<48} | {:<4} | {:>10} | {:>13} | {:>5} | {} |\n", "what", "shape", "", "time", "rate",
             "part", "times the peer");
  fmt::print("| --- | --- | --- | --- | --- | --- | --- |\n");
  for (const BenchRow& row : rows_) fmt::print("{}\n", line(row));
}

}  // namespace tangram
