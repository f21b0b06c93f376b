// A BLD step of one layer with all variants, AdamW included: hidden 1024, 16 heads, 4 KV heads, FFN 4096, 8 sequences
// of 512 tokens. Counted are the matrix products and causal attention; the bound is the machine's own matmul peak.
//
//   bench_bld [f32|bf16]      (both without an argument)

#include <cmath>
#include <cstdio>
#include <string>

#include "blocks/untrained_model.h"
#include "distill/bld.h"
#include "kernels/peak.h"
#include "kernels/random.h"
#include "tests/benchmarks/peer.h"

namespace tangram {
namespace {

constexpr int64_t kSequences = 8, kLength = 512;

ModelConfig layer_config() {
  ModelConfig c;
  c.vocab_size = 512, c.hidden_size = 1024, c.intermediate_size = 4096, c.num_hidden_layers = 1;
  c.num_attention_heads = 16, c.num_key_value_heads = 4, c.head_dim = 64, c.max_position_embeddings = 2048;
  return c;
}

// Forward 2 products of T^2 / 2 (causal) D each, twice the operations; backward 2.5 times that (5 products).
double attention_flops(const ModelConfig& c, bool backward) {
  const double forward = 2.0 * 2 * (double(kLength) * double(kLength) / 2) * double(c.head_dim * c.num_attention_heads);
  return double(kSequences) * forward * (backward ? 3.5 : 1);
}

void run(DType dtype) {
  Context ctx;
  const ModelConfig config = layer_config();
  const Model teacher = make_untrained_model(config, teacher_architecture(config), dtype, 1);
  std::vector<Replacement> replacements;
  int softmax_variants = 0;
  for (const char* name : {"gqa_2", "gqa_1", "linear"}) {
    Replacement r{
        .first_layer = 0, .layer_count = 1, .attention = parse_choice(Subblock::attention, name, config), .ffn = {}};
    softmax_variants += std::string(name) != "linear";
    replacements.push_back(r);
  }
  for (const char* name : {"0.87", "0.75", "0.5", "0.25", "0.2", "0.1", "linear"}) {
    Replacement r{
        .first_layer = 0, .layer_count = 1, .attention = {}, .ffn = parse_choice(Subblock::ffn, name, config)};
    replacements.push_back(r);
  }
  BldOptions options;
  options.init = Init::random;
  options.batch_tokens = kSequences * kLength;
  options.schedule.steps = 1000;
  BldTrainer trainer(
      teacher, replacements, options, [](int64_t) { return LayerStatistics{}; }, ctx);
  Batch batch;
  for (int64_t s = 0; s < kSequences; ++s) batch.lengths.push_back(int32_t(kLength));
  for (int64_t i = 0; i < options.batch_tokens; ++i) {
    batch.tokens.push_back(int32_t(random_below(512, 1, 1, uint64_t(i))));
    batch.targets.push_back(-1);
  }
  const std::vector<Batch> batches{batch};
  trainer.step(batches);
  const double before = ctx.matmul_flops;
  trainer.step(batches);
  const double flops =
      ctx.matmul_flops - before + attention_flops(config, false) + softmax_variants * attention_flops(config, true);
  const double peak = matmul_gflops(dtype, ctx);
  const double seconds = best_seconds(5, [&] { trainer.step(batches); });
  std::printf(
      "bld step %-4s  %7.1f ms  %6.1f GFLOP  %6.1f GFLOP/s  bound %6.1f  fraction %.3f  %.0f tokens/s  %.0f MiB\n",
      std::string(name_of(dtype)).c_str(), seconds * 1e3, flops / 1e9, flops / seconds / 1e9, peak,
      flops / seconds / 1e9 / peak, double(options.batch_tokens) / seconds, double(trainer.memory_bytes()) / (1 << 20));
  std::fflush(stdout);
  print_peers(time_peers("bld", dtype, ctx.threads), seconds);
}

}  // namespace
}  // namespace tangram

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  for (const tangram::DType dtype : {tangram::DType::f32, tangram::DType::bf16})
    if (only.empty() || only == name_of(dtype)) tangram::run(dtype);
}
