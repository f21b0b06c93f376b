// Distillation depth first, four layers one after the other: their weights streamed from disk, all variants trained on
// every token, the residual stream read and written beside the computation. Timed are the steps, with all that they
// wait for; not the variants' start.

#include <fmt/core.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>

#include "blocks/checkpoint.h"
#include "distill/depth_first.h"
#include "kernels/random.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Shape {
  std::string name;
  int64_t hidden, heads, kv_heads, head_dim, ffn, sequences, tokens, steps;
  std::vector<std::string> attention;

  ModelConfig config() const {
    ModelConfig c;
    c.vocab_size = 512, c.hidden_size = hidden, c.intermediate_size = ffn, c.num_hidden_layers = 4;
    c.num_attention_heads = heads, c.num_key_value_heads = kv_heads, c.head_dim = head_dim;
    c.max_position_embeddings = 131072;
    return c;
  }
};

Shape shape_of(const BenchOptions& o) {
  if (o.tiny) return {"tiny", 128, 4, 2, 32, 512, 2, 64, 3, {"gqa_1", "linear"}};
  if (o.device == Device::cuda)
    return {"70B", 8192, 64, 8, 128, 28672, 2, 8192, 122, {"gqa_4", "gqa_2", "gqa_1", "linear"}};
  return {"small", 1024, 16, 4, 64, 4096, 8, 512, 6, {"gqa_2", "gqa_1", "linear"}};
}

std::vector<Replacement> replacements_of(const Shape& shape) {
  const ModelConfig config = shape.config();
  std::vector<Replacement> all;
  const auto add = [&](int64_t layer, Subblock s, const std::string& name) {
    Replacement r{.first_layer = layer, .layer_count = 1, .attention = {}, .ffn = {}};
    r.of(s) = parse_choice(s, name, config);
    all.push_back(r);
  };
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const std::string& name : shape.attention) add(layer, Subblock::attention, name);
    for (const char* width : {"0.87", "0.75", "0.5", "0.25", "0.2", "0.1", "linear"}) add(layer, Subblock::ffn, width);
  }
  return all;
}

// A folder of this process's own, removed at the end.
struct Folder {
  fs::path path = fs::temp_directory_path() / fmt::format("tangram-bench-{}", getpid());
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }

  int64_t free_bytes() const {
    struct statvfs disk {};
    return statvfs(path.c_str(), &disk) == 0 ? int64_t(disk.f_bavail) * int64_t(disk.f_frsize) : 0;
  }
};

// Statistics with which variants keep the first channels: where training starts does not matter here.
LayerStatistics no_statistics(const ModelConfig& config, Arena& memory) {
  LayerStatistics statistics;
  statistics.ffn.contribution = memory.tensor(1, config.intermediate_size, DType::f32);
  return statistics;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void run(Bench& bench, Shape shape, DType dtype) {
  const std::string what = fmt::format("distil depth first, {} layers", shape.name);
  if (!bench.wants(what)) return;
  bench.ceilings(dtype);
  Context& ctx = *bench.context;
  const ModelConfig config = shape.config();
  Folder folder;
  save_model(folder.path / "teacher",
             move_model(bench.random_model(config, teacher_architecture(config), dtype), Device::cpu, ctx));

  DepthFirstRun depth{.teacher = streamed_teacher(folder.path / "teacher", dtype),
                      .replacements = replacements_of(shape),
                      .options = {},
                      .steps = 1,
                      .boundaries = folder.path};
  depth.options.init = Init::prune;
  depth.options.batch_tokens = shape.sequences * shape.tokens;
  depth.options.schedule.steps = depth.steps =
      std::max<int64_t>(1, std::min(shape.steps, folder.free_bytes() * 9 / 10 / (2 * depth.boundary().batch_bytes())));
  Batch batch = blank_batch(depth.options.batch_tokens, shape.tokens);
  for (size_t i = 0; i < batch.tokens.size(); ++i)
    batch.tokens[i] = int32_t(random_below(uint64_t(config.vocab_size), 1, 1, i));

  Arena memory(config.intermediate_size * 4 + 64);
  const LayerStatistics statistics = no_statistics(config, memory);
  {
    DepthFirstLayer warm_up(depth, 0, /*trained=*/true, ctx);  // chooses algorithms; what it writes is dropped
    warm_up.start(statistics);
    warm_up.step(std::span(&batch, 1));
  }
  IoTimes traffic;
  double seconds = 0;
  const double before = ctx.matmul_flops + ctx.attention_flops;
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    DepthFirstLayer layer(depth, l, /*trained=*/true, ctx);
    layer.start(statistics);
    const auto start = std::chrono::steady_clock::now();
    for (int64_t s = 0; s < depth.steps; ++s) layer.step(std::span(&batch, 1));
    layer.finish();
    seconds += seconds_since(start);
    traffic += layer.io_times();
    if (l > 0) fs::remove(boundary_path(depth.boundaries, l));
  }
  const double tokens = double(depth.steps * depth.options.batch_tokens);
  bench.add({what,
             fmt::format("hidden {}, FFN {}, {} variants, {:.3g} tokens", shape.hidden, shape.ffn,
                         depth.replacements.size() / size_t(config.num_hidden_layers), tokens),
             dtype, seconds, ctx.matmul_flops + ctx.attention_flops - before, Unit::flops});
  fmt::print(stderr,
             "  {:.0f} tokens/s of each layer; boundaries: {:.2f} GB read in {:.2f} s, {:.2f} GB written in {:.2f} s, "
             "{:.1f} % of that hidden\n",
             tokens * double(config.num_hidden_layers) / seconds, double(traffic.bytes_read) * 1e-9,
             traffic.read_seconds, double(traffic.bytes_written) * 1e-9, traffic.write_seconds,
             100 * traffic.hidden_fraction());
}

}  // namespace

void bench_depth_first(Bench& bench) {
  for (const DType dtype : bench.options.dtypes) run(bench, shape_of(bench.options), dtype);
}

}  // namespace tangram
