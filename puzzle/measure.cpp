#include "puzzle/measure.h"

#include <algorithm>
#include <chrono>

#include "kernels/elementwise.h"
#include "kernels/random.h"
#include "kernels/transfer.h"
#include "puzzle/costs.h"

namespace tangram {
namespace {

double median_seconds(int repeats, const std::function<void()>& work, Context& ctx) {
  work();  // warms caches and makes the primitives
  synchronize(ctx);
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    work();
    synchronize(ctx);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[static_cast<size_t>(repeats / 2)];
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
  const DType dtype = scenario.precision;
  const bool is_attention = choice.variant->subblock == Subblock::attention;
  const Architecture one{{is_attention ? choice : parse_choice(Subblock::attention, "no_op", config),
                          parse_choice(Subblock::ffn, "no_op", config)}};
  const int64_t S = scenario.concurrency, tokens = scenario.input_tokens + scenario.output_tokens;
  const int64_t N = tokens_at_once(scenario, options.prefill_tokens_at_most);
  const int64_t prefill_at_once = scenario.input_tokens > 0 ? std::min(S, N / scenario.input_tokens) : 0;

  SubblockWeights weights;
  const auto lay_out = [&](Arena& arena) {
    weights = make_weights(choice, config, dtype, arena);
    const KvCache cache(one, config, S, tokens, dtype, arena);
    return std::pair(cache,
                     std::pair(arena.tensor(N, config.hidden_size, dtype), arena.tensor(N, config.hidden_size, dtype)));
  };
  Arena planner = Arena::planner();
  lay_out(planner);
  Arena arena(planner.used_bytes(), ctx.device);
  const auto [cache, buffers] = lay_out(arena);
  const auto [x, y] = buffers;
  fill_for_measuring(weights.norm, 1, 0.1, 0, ctx);
  for (size_t i = 0; i < weights.params.size(); ++i) fill_for_measuring(weights.params[i].values, 0, 0.03, 1 + i, ctx);
  fill_for_measuring(x, 0, 1, 100, ctx);
  if (cache.layer(0).pages.keys.data) {
    fill_for_measuring(cache.layer(0).pages.keys, 0, 1, 101, ctx);
    fill_for_measuring(cache.layer(0).pages.values, 0, 1, 102, ctx);
  }

  const auto seconds = [&, x = x, y = y, &cache = cache](std::span<const int32_t> lengths,
                                                         std::span<const int32_t> past) {
    ArenaScope scope(ctx.scratch);
    const SequenceBatch batch(config, lengths, past, ctx.scratch, ctx);
    const Tensor in = x.row_range(0, batch.tokens()), out = y.row_range(0, batch.tokens());
    return median_seconds(
        options.repeats,
        [&] {
          subblock_infer(out, in, weights, config, cache.layer(0), batch.view(), ctx);
          add(out, out, in, ctx);
        },
        ctx);
  };
  Runtime runtime;
  if (scenario.input_tokens > 0) {
    const std::vector<int32_t> lengths(size_t(prefill_at_once), int32_t(scenario.input_tokens)),
        none(lengths.size(), 0);
    runtime.prefill_seconds = seconds(lengths, none) * double(S) / double(prefill_at_once);
  }
  runtime.decode_seconds = integrate_decode(scenario, is_attention ? options.decode_points : 1, [&](int64_t context) {
    const std::vector<int32_t> one_each(size_t(S), 1), past(one_each.size(), static_cast<int32_t>(context));
    return seconds(one_each, past);
  });
  return runtime;
}

Runtime measure_outside(const ModelConfig& config, const Scenario& scenario, const MeasureOptions& options,
                        Context& ctx) {
  ModelConfig no_blocks = config;
  no_blocks.num_hidden_layers = 0;
  const Model model = make_model(no_blocks, {}, scenario.precision, ctx.device);
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model)) fill_for_measuring(t.tensor, 0, 1, stream++, ctx);

  const int64_t S = scenario.concurrency, H = config.hidden_size, V = config.vocab_size;
  ArenaScope scope(ctx.scratch);
  const Tensor hidden = ctx.scratch.tensor(S, H, model.dtype), logits = ctx.scratch.tensor(S, V, DType::f32);
  const std::vector<int32_t> tokens(static_cast<size_t>(S), 0);
  const double step = median_seconds(
      options.repeats,
      [&] {
        embed(hidden, model, tokens, ctx);
        final_norm_forward(hidden, model, hidden, ctx);
        model_logits(logits, model, hidden, ctx);
      },
      ctx);
  return {.prefill_seconds = step, .decode_seconds = step * double(std::max<int64_t>(scenario.output_tokens - 1, 0))};
}

}  // namespace tangram
