// A BLD step of one layer with all its variants, by the trainer itself: the frozen teacher layer forward, every variant
// of its attention and FFN forward and backward, clipping, AdamW. Counted are the matrix products and causal attention.

#include <fmt/core.h>

#include "distill/bld.h"
#include "kernels/random.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace {

struct Layer {
  std::string name;
  int64_t hidden, heads, kv_heads, head_dim, ffn, sequences, tokens;
  std::vector<int64_t> gqa;

  ModelConfig config() const {
    ModelConfig c;
    c.vocab_size = 512, c.hidden_size = hidden, c.intermediate_size = ffn, c.num_hidden_layers = 1;
    c.num_attention_heads = heads, c.num_key_value_heads = kv_heads, c.head_dim = head_dim;
    c.max_position_embeddings = 131072;
    return c;
  }
};

std::vector<Layer> layers_of(const BenchOptions& o) {
  if (o.tiny) return {{"tiny", 128, 4, 2, 32, 512, 2, 64, {1}}};
  if (o.device == Device::cuda)
    return {{"70B", 8192, 64, 8, 128, 28672, 2, 8192, {4, 2, 1}}, {"8B", 4096, 32, 8, 128, 14336, 2, 8192, {4, 2, 1}}};
  return {{"small", 1024, 16, 4, 64, 4096, 8, 512, {2, 1}}};
}

std::vector<Replacement> replacements_of(const Layer& layer) {
  const ModelConfig config = layer.config();
  std::vector<Replacement> all;
  const auto add = [&](Subblock s, const std::string& name) {
    Replacement r;
    r.of(s) = parse_choice(s, name, config);
    all.push_back(r);
  };
  for (const int64_t g : layer.gqa) add(Subblock::attention, fmt::format("gqa_{}", g));
  add(Subblock::attention, "linear");
  for (const char* width : {"0.87", "0.75", "0.5", "0.25", "0.2", "0.1", "linear"}) add(Subblock::ffn, width);
  return all;
}

// Forward 2 products of T^2 / 2 (causal) D each, twice the operations; backward 2.5 times that (5 products).
double attention_flops(const Layer& layer, bool backward) {
  const double pairs = double(layer.tokens) * double(layer.tokens) / 2;
  return double(layer.sequences) * 2 * 2 * pairs * double(layer.head_dim * layer.heads) * (backward ? 3.5 : 1);
}

std::string peer_work(const Layer& l, const std::vector<Replacement>& replacements) {
  std::vector<int64_t> numbers{l.hidden, l.heads,     l.kv_heads, l.head_dim,
                               l.ffn,    l.sequences, l.tokens,   int64_t(l.gqa.size())};
  numbers.insert(numbers.end(), l.gqa.begin(), l.gqa.end());
  for (const Replacement& r : replacements)
    if (r.ffn && r.ffn->size > 0) numbers.push_back(r.ffn->size);
  return fmt::format("bld:{}", fmt::join(numbers, ","));
}

void run(Bench& bench, const Layer& layer, DType dtype) {
  const std::string what = fmt::format("bld step, {} layer", layer.name);
  if (!bench.wants(what)) return;
  bench.ceilings(dtype);
  Context& ctx = *bench.context;
  const ModelConfig config = layer.config();
  const Model teacher = bench.random_model(config, teacher_architecture(config), dtype);
  const std::vector<Replacement> replacements = replacements_of(layer);
  BldOptions options;
  options.init = Init::random;
  options.batch_tokens = layer.sequences * layer.tokens;
  options.schedule.steps = 1000;
  BldTrainer trainer(
      teacher, replacements, options, [](int64_t) { return LayerStatistics{}; }, ctx);
  Batch batch;
  batch.lengths.assign(size_t(layer.sequences), int32_t(layer.tokens));
  batch.targets.assign(size_t(options.batch_tokens), -1);
  for (int64_t i = 0; i < options.batch_tokens; ++i)
    batch.tokens.push_back(int32_t(random_below(uint64_t(config.vocab_size), 1, 1, uint64_t(i))));
  const std::vector<Batch> batches{batch};
  trainer.step(batches);
  const double before = ctx.matmul_flops;
  trainer.step(batches);
  const double flops = ctx.matmul_flops - before + attention_flops(layer, false) +
                       double(layer.gqa.size()) * attention_flops(layer, true);
  const double seconds = bench.seconds([&] { trainer.step(batches); }, 5e-3, 5);
  bench.add({what,
             fmt::format("hidden {}, FFN {}, {} variants, {} x {} tokens", layer.hidden, layer.ffn, replacements.size(),
                         layer.sequences, layer.tokens),
             dtype, seconds, flops, Unit::flops, peer_work(layer, replacements)});
  fmt::print(stderr, "  {:.0f} tokens/s, {:.1f} GiB\n", double(options.batch_tokens) / seconds,
             double(trainer.memory_bytes()) / double(1 << 30));
}

}  // namespace

void bench_bld(Bench& bench) {
  for (const DType dtype : bench.options.dtypes)
    for (const Layer& layer : layers_of(bench.options)) run(bench, layer, dtype);
}

}  // namespace tangram
