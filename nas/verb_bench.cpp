#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "blocks/config_json.h"
#include "blocks/decoder.h"
#include "blocks/generate.h"
#include "kernels/elementwise.h"
#include "kernels/peak.h"
#include "kernels/random.h"
#include "kernels/transfer.h"
#include "nas/model_options.h"
#include "nas/model_verbs.h"
#include "nas/table.h"
#include "nas/units.h"

namespace tangram {
namespace {

constexpr int kPrefillRepeats = 3;
constexpr int64_t kDecodeTurns = 8;

struct Options {
  ModelOptions model;
  bool untrained = false;  ///< random weights, of which speed does not depend
  int64_t prompt_tokens = 512, output_tokens = 64, batch = 1;
};

/// One phase of inference: how fast it ran, and the machine's limit in the same units.
struct Phase {
  std::string name;
  double tokens_per_s = 0;
  double rate = 0, bound = 0;  ///< GFLOP/s of the prefill, GB/s of the decode steps
  std::string units;
};

// Operations of attention over the context, which the matrix products do not have: two of D multiplications and
// additions for each query head and each pair of a token and one that it sees.
double attention_flops(const Model& model, int64_t T) {
  double flops = 0;
  for (const BlockWeights& block : model.blocks) {
    const Choice& choice = block.attention.choice;
    const Cost cost = choice.variant->cost({model.config, choice.size});
    if (cost.kv_elements == 0) continue;
    const double w = double(std::min(T, cost.kv_tokens_at_most)), pairs = w * (w + 1) / 2 + (double(T) - w) * w;
    flops += 4 * pairs * double(model.config.num_attention_heads * model.config.head_dim);
  }
  return flops;
}

// Bytes that a decode step reads: all weights once (of an embedding that is not the head, only the rows looked up), and
// of every sequence the keys and values of `context` tokens.
double decode_bytes(const Model& model, int64_t batch, int64_t context) {
  double bytes = 0;
  for (const NamedTensor& t : named_tensors(model)) bytes += double(t.tensor.bytes());
  if (!model.config.tie_word_embeddings)
    bytes -= double((model.config.vocab_size - std::min(batch, model.config.vocab_size)) * model.config.hidden_size *
                    size_of(model.dtype));
  for (const BlockWeights& block : model.blocks) {
    const Choice& choice = block.attention.choice;
    const Cost cost = choice.variant->cost({model.config, choice.size});
    bytes += double(batch) * double(std::min(context, cost.kv_tokens_at_most)) *
             double(cost.kv_elements * size_of(model.dtype));
  }
  return bytes;
}

/// A batch of equal prompts, decoded greedily.
class Bench {
 public:
  Bench(const Model& model, const Options& o, Context& ctx)
      : model_(model),
        o_(o),
        ctx_(ctx),
        memory_(make_cache(model, o.batch, o.prompt_tokens + o.output_tokens + 1)),
        decoder_(model, memory_.cache, ctx),
        next_(static_cast<size_t>(o.batch)) {
    for (int64_t i = 0; i < o.batch * o.prompt_tokens; ++i)
      prompts_.push_back(static_cast<int32_t>(i % model.config.vocab_size));
  }

  Phase prefill() {
    run_prefill();  // maps the weights and makes the primitives
    const double before = ctx_.matmul_flops;
    const double seconds = best_seconds(kPrefillRepeats, [&] { run_prefill(); });
    const double flops =
        (ctx_.matmul_flops - before) / kPrefillRepeats + double(o_.batch) * attention_flops(model_, o_.prompt_tokens);
    return {"prefill", double(o_.batch * o_.prompt_tokens) / seconds, flops / seconds * 1e-9,
            matmul_gflops(model_.dtype, ctx_), "GFLOP/s"};
  }

  /// Behind prefill(). Decode steps and plain reading of the weights take turns, for the rate of memory that machines
  /// share changes from one second to the next; the best of each counts.
  Phase decode() {
    std::vector<Tensor> weights;
    for (const NamedTensor& t : named_tensors(model_)) weights.push_back(t.tensor);
    decoder_.start(next_, std::vector<int32_t>(next_.size(), static_cast<int32_t>(o_.prompt_tokens)));
    decoder_.step();
    Phase phase{.name = "decode", .units = "GB/s"};
    const int64_t steps_a_turn = ceil_div(o_.output_tokens, kDecodeTurns);
    for (int64_t step = 1; step <= o_.output_tokens; step += steps_a_turn) {
      const int64_t end = std::min(step + steps_a_turn, o_.output_tokens + 1);
      double bytes = 0;
      for (int64_t i = step; i < end; ++i) bytes += decode_bytes(model_, o_.batch, o_.prompt_tokens + i + 1);
      const double seconds = best_seconds(1, [&] {
        for (int64_t i = step; i < end; ++i) decoder_.step();
        synchronize(ctx_);
      });
      if (const double rate = bytes / seconds * 1e-9; rate > phase.rate) {
        phase.rate = rate;
        phase.tokens_per_s = double(o_.batch * (end - step)) / seconds;
      }
      phase.bound = std::max(phase.bound, read_gb_per_s(weights, 1, ctx_));
    }
    return phase;
  }

 private:
  void run_prefill() {
    tangram::prefill(
        model_, view_of(prompts_.data(), o_.batch, o_.prompt_tokens), memory_.cache, kPrefillTokens,
        [&](int64_t first, int64_t count, Tensor hidden) {
          if (first + count < o_.prompt_tokens) return;
          ArenaScope scope(ctx_.scratch);
          const Tensor last = ctx_.scratch.tensor(o_.batch, hidden.cols, hidden.dtype);
          for (int64_t s = 0; s < o_.batch; ++s)
            copy(last.row_range(s, 1), hidden.row_range((s + 1) * count - 1, 1), ctx_);
          draw(last);
        },
        ctx_);
  }

  void draw(Tensor hidden) {
    const Tensor logits = ctx_.scratch.tensor(o_.batch, model_.config.vocab_size, DType::f32);
    model_logits(logits, model_, hidden, ctx_);
    const HostView host(logits, ctx_);
    for (int64_t s = 0; s < o_.batch; ++s)
      next_[static_cast<size_t>(s)] = sample_token(host.tensor().row_range(s, 1), {.temperature = 0}, 0);
  }

  const Model& model_;
  const Options& o_;
  Context& ctx_;
  ContiguousCache memory_;
  Decoder decoder_;
  std::vector<int32_t> next_;     // (B)
  std::vector<int32_t> prompts_;  // (B, T)
};

void print(const VerbInput& in, const Options& o, const Model& model, int threads, const std::vector<Phase>& phases) {
  if (in.json) {
    nlohmann::ordered_json json = {{"prompt_tokens", o.prompt_tokens},
                                   {"output_tokens", o.output_tokens},
                                   {"batch", o.batch},
                                   {"dtype", name_of(model.dtype)},
                                   {"threads", threads}};
    for (const Phase& p : phases)
      json[p.name] = {{"tokens_per_s", p.tokens_per_s},
                      {"rate", p.rate},
                      {"bound", p.bound},
                      {"units", p.units},
                      {"part", p.rate / p.bound}};
    fmt::print(in.out, "{}\n", json.dump(2));
    return;
  }
  Table table{.header = {"", "tokens/s", "rate", "bound", "part", "units"}, .rows = {}};
  for (const Phase& p : phases)
    table.rows.push_back({p.name, format_count(p.tokens_per_s), fmt::format("{:.1f}", p.rate),
                          fmt::format("{:.1f}", p.bound), fmt::format("{:.0f}%", 100 * p.rate / p.bound), p.units});
  fmt::print(in.out, "{}{} sequences, {} tokens in, {} out, {}, {} threads\n", format_table(table), o.batch,
             o.prompt_tokens, o.output_tokens, name_of(model.dtype), threads);
  fmt::print(in.out,
             "bound: this machine's measured matmul rate for prefill, rate of reading the weights for decode\n");
}

/// Weights of a plausible size that are made as fast as memory is written; of what they are, speed does not depend.
Model untrained_model(const Options& o, Context& ctx) {
  const ModelDescription description = read_config(o.model.folder);
  const DType dtype = o.model.dtype == "bf16" ? DType::bf16 : DType::f32;
  const Model model = make_model(description.config, description.architecture, dtype, ctx.device);
  uint64_t seed = 0;
  for (const NamedTensor& t : named_tensors(model)) {
    const bool is_norm = t.tensor.rows == 1;
    fill_for_measuring(t.tensor, is_norm, std::sqrt(3 / double(t.tensor.cols)), seed++, ctx);
  }
  return model;
}

void run_bench(const Options& o, const VerbInput& in) {
  if (o.batch * (o.prompt_tokens + o.output_tokens + 1) > INT32_MAX)
    throw bad_input("{} sequences of {} + {} tokens are more than {} together", o.batch, o.prompt_tokens,
                    o.output_tokens, INT32_MAX);
  Context ctx(Context::Options{.device = in.device, .threads = in.threads});
  in.console.status(o.untrained ? "bench: random weights" : "bench: loading");
  const Model model = o.untrained ? untrained_model(o, ctx) : load_model(o.model, ctx);
  Bench bench(model, o, ctx);
  in.console.status("bench: prefill");
  std::vector<Phase> phases{bench.prefill()};
  in.console.status("bench: decode");
  phases.push_back(bench.decode());
  in.console.status("");
  print(in, o, model, ctx.threads, phases);
}

}  // namespace

std::function<void(const VerbInput&)> add_bench(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  add_model_options(app, o->model);
  app.add_flag("--untrained", o->untrained, "Random weights: FOLDER needs no more than a config.json");
  add_count(app, "--prompt-tokens", o->prompt_tokens, 1, "Tokens of each prompt");
  add_count(app, "--output-tokens", o->output_tokens, 1, "Decode steps");
  add_count(app, "--batch", o->batch, 1, "Sequences at a time");
  return [o](const VerbInput& in) { run_bench(*o, in); };
}

}  // namespace tangram
