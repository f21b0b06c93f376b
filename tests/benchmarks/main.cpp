// benchmarks NAME... [--device cuda] [--tiny]: prints one table of what is measured, with its part of the device's own
// ceilings and, where TANGRAM_PEERS names Pythons with PyTorch, how many times as fast as there it is.

#include <fmt/core.h>

#include <CLI/CLI.hpp>

#include "kernels/cuda_devices.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace {

constexpr int kUsage = 2, kSkipped = 77;

struct Program {
  std::string name, summary;
  void (*run)(Bench&);
};

const std::vector<Program> kPrograms = {
    {"kernels", "matrix products, training attention, decode attention", bench_kernels},
    {"memory", "memory-bound operations, losses", bench_memory},
    {"score", "replace-one scoring of a library", bench_score},
    {"bld", "a step of blockwise distillation of one layer with all its variants", bench_bld},
    {"depth_first", "distillation of four layers one by one, their residual stream on disk", bench_depth_first},
    {"model", "prefill and decode of a whole model", bench_model},
    {"search", "the search at 70B's size: exact, frontier, diverse, beside simpler ways", bench_search},
    {"tokenizer", "encoding text into tokens", bench_tokenizer},
};

int run(int argc, char** argv) {
  BenchOptions options;
  std::vector<std::string> names, dtypes{"bf16"}, known;
  std::string device = "cpu", summary = "Measures speed, beside the device's own ceilings:";
  for (const Program& p : kPrograms) {
    known.push_back(p.name);
    summary += fmt::format("\n  {:<11} {}", p.name, p.summary);
  }
  CLI::App app(summary);
  app.add_option("NAME", names, "What to measure")->required()->check(CLI::IsMember(known));
  app.add_option("--device", device, "Where to run")->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--dtype", dtypes, "Element types")->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--only", options.only, "Only rows whose name contains this");
  app.add_option("--peer-seconds", options.peer_seconds, "Time for the peers that TANGRAM_PEERS names; 0: none");
  app.add_flag("--tiny", options.tiny, "Small shapes: whether everything runs, not how fast");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : kUsage;
  }
  options.device = device == "cuda" ? Device::cuda : Device::cpu;
  for (const std::string& d : dtypes) options.dtypes.push_back(d == "f32" ? DType::f32 : DType::bf16);
  if (options.device == Device::cuda && cuda_devices().empty()) {
    fmt::print("skipped: no GPU in this machine\n");
    return kSkipped;
  }
  Bench bench(options);
  for (const Program& p : kPrograms)
    if (std::find(names.begin(), names.end(), p.name) != names.end()) p.run(bench);
  bench.finish();
  return 0;
}

}  // namespace
}  // namespace tangram

int main(int argc, char** argv) {
  try {
    return tangram::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "benchmarks: {}\n", e.what());
    return 1;
  }
}
