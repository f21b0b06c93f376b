#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "blocks/model.h"
#include "kernels/context.h"
#include "tests/benchmarks/peer.h"

namespace tangram {

struct BenchOptions {
  Device device = Device::cpu;
  std::vector<DType> dtypes;
  bool tiny = false;       ///< shapes that take a moment anywhere: whether everything works, not how fast
  std::string only;        ///< rows whose name contains it
  int peer_seconds = 120;  ///< for all peers of a dtype together; 0: none
};

/// What everything is compared with, measured by the same process.
struct Ceilings {
  double flops = 0;  ///< operations a second of a large matrix product on random data
  double bytes = 0;  ///< bytes a second: read and written by a large copy; on the CPU, read
};

enum class Unit : uint8_t { flops, bytes };

/// A line of the table.
struct BenchRow {
  std::string what, shape;
  DType dtype;
  double seconds;
  double work;  ///< operations or bytes in that time
  Unit unit;
  std::string peer_work = {};        ///< the same for peer_torch.py; empty: it has none
  double bound = 0;                  ///< the rate to compare with; 0: the ceiling
  std::vector<PeerTime> peers = {};  ///< filled by `finish`; other ways of our own may stand here before
};

/// What every benchmark gets: options, device, ceilings and the table.
///
///   if (bench.wants("rmsnorm forward")) bench.add({"rmsnorm forward", "16384 x 8192", ...});
class Bench {
 public:
  explicit Bench(BenchOptions options);

  bool wants(std::string_view what) const { return what.find(options.only) != std::string::npos; }
  const Ceilings& ceilings(DType dtype);
  /// Says how long it took; `finish` prints the table.
  void add(const BenchRow& row);
  /// Runs the peers of all rows (free the GPU's memory before) and prints the table.
  void finish();

  /// Seconds of one call, from several runs of as many calls as are worth timing, after a warm-up: their median; on the
  /// CPU, which others share, the least.
  double seconds(const std::function<void()>& call, double least_run = 5e-3, int runs = 7);
  /// The same of `calls` calls that a CUDA graph holds and starts together, divided by their number; on the CPU one
  /// after the other. `call` gets their index.
  double graph_seconds(int calls, const std::function<void(int)>& call);

  /// Random values on the context's device, others each time.
  void fill(Tensor x, double deviation = 1, double mean = 0);
  Tensor random(Arena& arena, int64_t rows, int64_t cols, DType dtype, double deviation = 1);
  Arena arena(int64_t bytes) const { return Arena(bytes, options.device); }
  /// A model of random weights on the device.
  Model random_model(const ModelConfig& config, const Architecture& architecture, DType dtype);

  BenchOptions options;
  std::optional<Context> context;  ///< until `finish`

 private:
  Ceilings measure_ceilings(DType dtype);
  std::string line(const BenchRow& row);

  std::map<DType, Ceilings> ceilings_;
  std::vector<BenchRow> rows_;
  uint64_t seed_ = 0;
};

// The benchmarks; each adds its rows.
void bench_kernels(Bench& bench);
void bench_memory(Bench& bench);
void bench_score(Bench& bench);
void bench_bld(Bench& bench);
void bench_depth_first(Bench& bench);
void bench_model(Bench& bench);
void bench_search(Bench& bench);     ///< prints tables of its own
void bench_tokenizer(Bench& bench);  ///< the same

}  // namespace tangram
