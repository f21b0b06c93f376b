#include "puzzle/measure.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "kernels/cuda_devices.h"
#include "kernels/graph.h"
#include "kernels/random.h"
#include "kernels/transfer.h"
#include "puzzle/costs.h"

namespace tangram {
namespace {

// Of the least disturbed call.
double least_seconds(const MeasureOptions& options, const std::function<void()>& work, Context& ctx) {
  work();  // warms caches and makes the primitives
  if (ctx.planning()) return 0;
  synchronize(ctx);
  double least = 0, all = 0;
  for (int i = 0; i < options.repeats || all < options.seconds_at_least; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    synchronize(ctx);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    least = i == 0 ? seconds : std::min(least, seconds);
    all += seconds;
  }
  return least;
}

// Times a subblock, or what is outside of blocks, as a decoder runs them.
double least_decode_seconds(const MeasureOptions& options, const std::function<void()>& work, Context& ctx) {
  Graph graph(work);
  graph.launch(ctx);  // the next is the recording
  return least_seconds(
      options, [&] { graph.launch(ctx); }, ctx);
}

/// A subblock and the cache of its sequences.
struct Instance {
  SubblockWeights weights;
  KvCache cache;
};

// A GPU's timing goes several times over a subblock, to outweigh the start of the graph, and over so many instances
// that none is left in its cache when it comes again.
constexpr int64_t kPasses = 8, kMostInstances = 64, kOutsideCacheBytes = int64_t{256} << 20;

int64_t instances_to_measure(int64_t bytes, const Context& ctx) {
  return ctx.device == Device::cuda ? std::clamp<int64_t>(ceil_div(kOutsideCacheBytes, bytes), 1, kMostInstances) : 1;
}

void fill(Instance& instance, Context& ctx) {
  fill_for_measuring(instance.weights.norm, 1, 0.1, 0, ctx);
  for (size_t i = 0; i < instance.weights.params.size(); ++i)
    fill_for_measuring(instance.weights.params[i].values, 0, 0.03, 1 + i, ctx);
  const KvPages pages = instance.cache.layer(0, ctx).pages;
  if (!pages.keys.data) return;
  fill_for_measuring(pages.keys, 0, 1, 101, ctx);
  fill_for_measuring(pages.values, 0, 1, 102, ctx);
}

// Integral over the output tokens of the time of one step, from samples at evenly spaced context lengths.
double integrate_decode(const Scenario& scenario, int points, const std::function<double(int64_t context)>& step) {
  const int64_t steps = scenario.output_tokens - 1;  // the first output token comes from the prefill
  if (steps <= 0) return 0;
  if (points < 2 || steps < 2) return double(steps) * step(scenario.input_tokens);
  double sum = 0, before = step(scenario.input_tokens);
  for (int i = 1; i < points; ++i) {
    const double now = step(scenario.input_tokens + i * (steps - 1) / (points - 1));
    sum += (before + now) / 2;
    before = now;
  }
  return double(steps) * sum / double(points - 1);
}

}  // namespace

Runtime measure_subblock(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                         const MeasureOptions& options, Context& ctx) {
  if (choice.variant->no_op) return {};
  const DType dtype = dtype_of(scenario.precision);
  const bool is_attention = choice.variant->subblock == Subblock::attention;
  const Architecture one{{is_attention ? choice : parse_choice(Subblock::attention, "no_op", config),
                          parse_choice(Subblock::ffn, "no_op", config)}};
  const int64_t S = scenario.concurrency, tokens = scenario.input_tokens + scenario.output_tokens;
  const int64_t N = tokens_at_once(scenario, options.prefill_tokens_at_most);
  const int64_t prefill_at_once = scenario.input_tokens > 0 ? std::min(S, N / scenario.input_tokens) : 0;

  const auto make_instance = [&](Arena& memory) {
    const SubblockWeights weights = make_weights(choice, config, dtype, memory);
    return Instance{weights, KvCache(one, config, S, tokens, dtype, memory)};
  };
  Arena planner = Arena::planner(ctx.device);
  const Tensor planned = planner.tensor(N, config.hidden_size, dtype);
  make_instance(planner);
  const int64_t count = instances_to_measure(planner.used_bytes(), ctx);
  Arena memory(count * planner.used_bytes(), ctx.device);
  const Tensor x = memory.tensor(planned.rows, planned.cols, dtype);
  fill_for_measuring(x, 0, 1, 100, ctx);
  std::vector<Instance> instances;
  for (int64_t i = 0; i < count; ++i) fill(instances.emplace_back(make_instance(memory)), ctx);

  // Adds up what passes over the instances give, as layers of a model would.
  const auto run = [&](const SequenceBatch& batch, int64_t passes) {
    const WeightsAtRest at_rest(ctx);
    for (int64_t pass = 0; pass < passes; ++pass) {
      Instance& i = instances[static_cast<size_t>(pass % count)];
      LayerCache cache = i.cache.layer(0, ctx);
      cache.table.pages =  // of the batch's sequences, the first of the cache's
          cache.table.pages.first(batch.view().past.size() * static_cast<size_t>(cache.table.pages_per_sequence));
      subblock_infer(x.row_range(0, batch.tokens()), i.weights, config, cache, batch.view(), ctx);
    }
  };
  Runtime runtime;
  ArenaScope scope(ctx.scratch);
  if (scenario.input_tokens > 0) {
    const std::vector<int32_t> lengths(size_t(prefill_at_once), int32_t(scenario.input_tokens));
    const SequenceBatch batch(config, lengths, {}, ctx.scratch, ctx);
    const double seconds = least_seconds(
        options, [&] { run(batch, 1); }, ctx);
    runtime.prefill_seconds = seconds * double(S) / double(prefill_at_once);
  }
  runtime.decode_seconds = integrate_decode(scenario, is_attention ? options.decode_points : 1, [&](int64_t context) {
    const std::vector<int32_t> lengths(size_t(S), 1), past(lengths.size(), static_cast<int32_t>(context));
    const SequenceBatch batch(config, lengths, past, ctx.scratch, ctx);
    const int64_t passes = ctx.device == Device::cuda ? std::max(count, kPasses) : 1;
    return least_decode_seconds(
               options, [&] { run(batch, passes); }, ctx) /
           double(passes);
  });
  return runtime;
}

Runtime measure_outside(const ModelConfig& config, const Scenario& scenario, const MeasureOptions& options,
                        Context& ctx) {
  ModelConfig no_blocks = config;
  no_blocks.num_hidden_layers = 0;
  const Model model = make_model(no_blocks, {}, dtype_of(scenario.precision), ctx.device);
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model)) fill_for_measuring(t.tensor, 0, 1, stream++, ctx);

  const int64_t S = scenario.concurrency, H = config.hidden_size, V = config.vocab_size;
  ArenaScope scope(ctx.scratch);
  const Tensor hidden = ctx.scratch.tensor(S, H, model.dtype), logits = ctx.scratch.tensor(S, V, DType::f32);
  const std::vector<int32_t> ids(static_cast<size_t>(S), 0);
  const Indices tokens = send(ids, ctx.scratch, ctx);
  const double step = least_decode_seconds(
      options,
      [&] {
        embed(hidden, model, tokens, ctx);
        final_norm_forward(hidden, model, hidden, ctx);
        model_logits(logits, model, hidden, ctx);
      },
      ctx);
  return {.prefill_seconds = step, .decode_seconds = step * double(std::max<int64_t>(scenario.output_tokens - 1, 0))};
}

WholeRun measure_whole(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                       const MeasureOptions& options, Context& ctx) {
  const DType dtype = dtype_of(scenario.precision);
  Arena planner = Arena::planner(ctx.device);
  make_model(config, architecture, dtype, planner);
  const auto arena_of = [&](int64_t bytes) {
    return ctx.planning() ? Arena::planner(ctx.device) : Arena(bytes, ctx.device);
  };
  Arena weights = arena_of(planner.used_bytes());
  const Model model = make_model(config, architecture, dtype, weights);
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model))
    fill_for_measuring(t.tensor, t.tensor.rows == 1 ? 1 : 0, t.tensor.rows == 1 ? 0.1 : 0.03, stream++, ctx);
  const int64_t S = scenario.concurrency, N = tokens_at_once(scenario, options.prefill_tokens_at_most);
  const int64_t prompts = scenario.input_tokens > 0 ? std::min(S, N / scenario.input_tokens) : 0;
  const auto make_cache = [&](Arena& arena) {
    return KvCache(architecture, config, S, scenario.input_tokens + scenario.output_tokens, dtype, arena);
  };
  Arena cache_planner = Arena::planner(ctx.device);
  make_cache(cache_planner);
  Arena cache_memory = arena_of(cache_planner.used_bytes());
  KvCache cache = make_cache(cache_memory);
  cache.update(ctx);
  ArenaScope scope(ctx.scratch);
  const Tensor hidden = ctx.scratch.tensor(N, config.hidden_size, model.dtype);
  const Tensor logits = ctx.scratch.tensor(S, config.vocab_size, DType::f32);
  const std::vector<int32_t> ids(static_cast<size_t>(N), 0);
  // One pass over the model: `count` sequences of `length` new tokens after `past`, and the logits of the last ones.
  const auto pass = [&](int64_t count, int64_t length, int64_t past, auto&& time) {
    ArenaScope batch_scope(ctx.scratch);
    const std::vector<int32_t> lengths(static_cast<size_t>(count), static_cast<int32_t>(length));
    const std::vector<int32_t> pasts(lengths.size(), static_cast<int32_t>(past));
    const SequenceBatch batch(config, lengths, pasts, ctx.scratch, ctx);
    const Indices tokens = send(std::span(ids).first(size_t(count * length)), ctx.scratch, ctx);
    return time([&] {
      const Tensor x = hidden.row_range(0, count * length);
      model_infer(x, model, tokens, batch.view(), cache, ctx);
      const WeightsAtRest at_rest(ctx);
      model_logits(logits.row_range(0, count), model, x.row_range(0, count), ctx);
    });
  };
  Runtime runtime;
  if (scenario.input_tokens > 0)
    runtime.prefill_seconds =
        double(S) / double(prompts) * pass(prompts, scenario.input_tokens, 0, [&](const std::function<void()>& work) {
          return least_seconds(options, work, ctx);
        });
  runtime.decode_seconds = integrate_decode(scenario, options.decode_points, [&](int64_t context) {
    return pass(S, 1, context,
                [&](const std::function<void()>& work) { return least_decode_seconds(options, work, ctx); });
  });
  return {.runtime = runtime,
          .weight_bytes = weights.used_bytes(),
          .kv_cache_bytes = cache_memory.used_bytes(),
          .workspace_bytes = ctx.scratch.peak_bytes()};
}

double planned_workspace(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                         const MeasureOptions& options, const Context& ctx) {
  ModelConfig one_layer = config;
  one_layer.num_hidden_layers = 1;
  BlockChoice block{parse_choice(Subblock::attention, "no_op", config), parse_choice(Subblock::ffn, "no_op", config)};
  block.of(choice.variant->subblock) = choice;
  Context planning({.device = ctx.device, .threads = ctx.threads, .planning = true});
  return double(measure_whole({block}, one_layer, scenario, options, planning).workspace_bytes);
}

int64_t memory_bytes(const Context& ctx) {
  if (ctx.device == Device::cuda) return cuda_devices()[0].memory_bytes;
  return int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
}

}  // namespace tangram
