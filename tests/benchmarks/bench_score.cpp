// Replace-one scoring of a whole library of random weights, against a naive forward pass of the assembled model for
// every variant. What the reuse of the prefix allows is counted in operations, with the student's head: a replacement
// costs its own subblock, those behind it and the head.

#include <fmt/core.h>

#include <cmath>

#include "kernels/peak.h"
#include "kernels/random.h"
#include "kernels/transfer.h"
#include "puzzle/replace_one.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace {

struct Shape {
  ModelConfig config;
  std::vector<std::string> gqa;
  int64_t sequences, tokens;
};

Shape shape_of(const BenchOptions& o) {
  ModelConfig c;
  c.max_position_embeddings = 131072;
  const auto set = [&](int64_t vocabulary, int64_t hidden, int64_t ffn, int64_t layers, int64_t heads, int64_t kv_heads,
                       int64_t head_dim) {
    c.vocab_size = vocabulary, c.hidden_size = hidden, c.intermediate_size = ffn, c.num_hidden_layers = layers;
    c.num_attention_heads = heads, c.num_key_value_heads = kv_heads, c.head_dim = head_dim;
    return c;
  };
  if (o.tiny) return {set(100, 64, 256, 2, 4, 2, 16), {"gqa_1"}, 1, 16};
  if (o.device == Device::cuda) return {set(128256, 4096, 14336, 16, 32, 8, 128), {"gqa_4", "gqa_2", "gqa_1"}, 8, 2048};
  return {set(8192, 512, 2048, 8, 8, 4, 64), {"gqa_2", "gqa_1"}, 2, 512};
}

/// The variants of one layer, which stand in every layer in turn.
std::vector<LibraryEntry> make_library(Bench& bench, const Shape& shape, const Model& teacher, Arena& arena) {
  std::vector<LibraryEntry> entries;
  const auto add = [&](Subblock s, const std::string& name) {
    LibraryEntry entry;
    entry.replacement.of(s) = parse_choice(s, name, teacher.config);
    entry.of(s) = make_weights(*entry.replacement.of(s), teacher.config, teacher.dtype, arena);
    if (!arena.is_planner()) {
      for (const Weight& w : entry.of(s)->params) bench.fill(w.values, 1 / std::sqrt(double(w.values.cols)));
      if (entry.of(s)->norm.data) entry.of(s)->norm = teacher.blocks[0].of(s).norm;
    }
    entries.push_back(std::move(entry));
  };
  for (const std::string& name : shape.gqa) add(Subblock::attention, name);
  for (const char* name : {"linear", "no_op"}) add(Subblock::attention, name);
  for (const char* name : {"0.87", "0.75", "0.5", "0.25", "0.2", "0.1", "linear", "no_op"}) add(Subblock::ffn, name);
  return entries;
}

class ScoreBench {
 public:
  ScoreBench(Bench& bench, DType dtype) : bench_(bench), dtype_(dtype), shape_(shape_of(bench.options)) {}

  void run() {
    if (!bench_.wants("replace-one scoring")) return;
    bench_.ceilings(dtype_);
    const ModelConfig& config = shape_.config;
    const int64_t layers = config.num_hidden_layers;
    const Model teacher = bench_.random_model(config, teacher_architecture(config), dtype_);
    Arena planner = Arena::planner(bench_.options.device);
    make_library(bench_, shape_, teacher, planner);
    Arena memory = bench_.arena(planner.used_bytes());
    std::vector<LibraryEntry> library = make_library(bench_, shape_, teacher, memory);
    make_batch();

    ReplaceOneScorer scorer(teacher, int64_t(tokens_.size()), *bench_.context);
    scorer.start_batch(batch_);
    const auto score_layer = [&](int64_t layer) {
      for (LibraryEntry& entry : library) {
        entry.replacement.first_layer = layer;
        scorer.score(entry);
      }
    };
    score_layer(layers - 1);  // warm-up: every shape of a product
    const double scored = once([&] {
      for (int64_t layer = 0; layer < layers; ++layer) score_layer(layer);
    });
    const double naive = double(layers) * once([&] {
                           for (const LibraryEntry& entry : library) score_naively(teacher, entry);
                         });

    double needed = 0, all = 0;
    for (const LibraryEntry& entry : library)
      for (int64_t layer = 0; layer < layers; ++layer) {
        needed += flops(entry.replacement, layer, true);
        all += flops(entry.replacement, layer, false);
      }
    BenchRow row{"replace-one scoring",
                 fmt::format("{} layers of {}, {} variants each, {} tokens", layers, config.hidden_size, library.size(),
                             tokens_.size()),
                 dtype_,
                 scored,
                 needed,
                 Unit::flops};
    row.peers = {{"a naive forward pass each", naive},
                 {fmt::format("what prefix reuse allows, {:.2f} x naive", all / needed), naive * needed / all}};
    bench_.add(row);
  }

 private:
  double once(const std::function<void()>& call) {
    synchronize(*bench_.context);
    return best_seconds(1, [&] {
      call();
      synchronize(*bench_.context);
    });
  }

  void make_batch() {
    lengths_.assign(size_t(shape_.sequences), int32_t(shape_.tokens));
    for (int64_t i = 0; i < shape_.sequences * shape_.tokens; ++i)
      tokens_.push_back(int32_t(random_below(uint64_t(shape_.config.vocab_size), 1, 2, uint64_t(i))));
    batch_ = {tokens_, tokens_, lengths_, shape_.tokens};
  }

  // The whole model, as one would that has no scorer.
  void score_naively(const Model& teacher, const LibraryEntry& entry) {
    Context& ctx = *bench_.context;
    const Model student = assemble(teacher, std::span(&entry, 1));
    ArenaScope scope(ctx.scratch);
    const SequenceBatch sequences(shape_.config, lengths_, {}, ctx.scratch, ctx);
    const Tensor hidden = ctx.scratch.tensor(int64_t(tokens_.size()), shape_.config.hidden_size, dtype_);
    model_hidden(hidden, student, tokens_, sequences.view(), ctx);
    sequence_metrics(hidden, student, hidden, teacher, batch_, ctx);
  }

  double flops(const Choice& choice) const {
    const double products = 2 * double(tokens_.size()) * double(parameter_count(choice, shape_.config));
    const bool attends = choice.variant->cost({shape_.config, choice.size}).kv_elements > 0;
    const double pairs = double(shape_.sequences) * double(shape_.tokens) * double(shape_.tokens + 1) / 2;
    return products + (attends ? 4 * pairs * double(shape_.config.num_attention_heads * shape_.config.head_dim) : 0);
  }

  // Of a student from its replaced subblock on, or as a whole; with its head.
  double flops(const Replacement& r, int64_t layer, bool reuse_prefix) const {
    double sum = 2 * double(tokens_.size()) * double(shape_.config.hidden_size * shape_.config.vocab_size);
    bool reached = !reuse_prefix;
    for (int64_t l = 0; l < shape_.config.num_hidden_layers; ++l)
      for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
        const bool replaced = l == layer && r.of(s);
        reached |= replaced;
        if (reached) sum += flops(replaced ? *r.of(s) : teacher_choice(s, shape_.config));
      }
    return sum;
  }

  Bench& bench_;
  const DType dtype_;
  const Shape shape_;
  std::vector<int32_t> tokens_, lengths_;
  ScoringBatch batch_;
};

}  // namespace

void bench_score(Bench& bench) {
  for (const DType dtype : bench.options.dtypes) ScoreBench(bench, dtype).run();
}

}  // namespace tangram
