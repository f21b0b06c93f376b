#include "blocks/generate.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "blocks/decoder.h"
#include "kernels/random.h"
#include "kernels/transfer.h"

namespace tangram {

ContiguousCache make_cache(const Model& model, int64_t sequences, int64_t tokens) {
  const Architecture architecture = model.architecture();
  const auto lay_out = [&](Arena& arena) {
    return KvCache(architecture, model.config, sequences, tokens, model.dtype, arena);
  };
  Arena planner = Arena::planner(model.device());
  lay_out(planner);
  Arena memory(planner.used_bytes(), model.device());
  KvCache cache = lay_out(memory);
  return {std::move(memory), std::move(cache)};
}

void prefill(const Model& model, Tensor tokens, KvCache& cache, int64_t tokens_at_once, const PrefillSink& sink,
             Context& ctx) {
  const int64_t S = tokens.rows, T = tokens.cols, at_once = std::max<int64_t>(1, tokens_at_once / S);
  for (int64_t first = 0; first < T; first += at_once) {
    const int64_t count = std::min(at_once, T - first);
    const std::vector<int32_t> lengths(static_cast<size_t>(S), static_cast<int32_t>(count));
    const std::vector<int32_t> past(lengths.size(), static_cast<int32_t>(first));
    ArenaScope scope(ctx.scratch);
    const SequenceBatch batch(model.config, lengths, past, ctx.scratch, ctx);
    std::vector<int32_t> ids;
    for (int64_t s = 0; s < S; ++s)
      ids.insert(ids.end(), tokens.row<int32_t>(s) + first, tokens.row<int32_t>(s) + first + count);
    const Tensor hidden = ctx.scratch.tensor(S * count, model.config.hidden_size, model.dtype);
    model_infer(hidden, model, ids, batch.view(), cache, ctx);
    sink(first, count, hidden);
  }
}

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// logits (1, V) behind the last of the hidden states, on the host.
void last_logits(Tensor logits, const Model& model, Tensor hidden, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const Tensor row = ctx.scratch.tensor(1, logits.cols, DType::f32);
  model_logits(row, model, hidden.row_range(hidden.rows - 1, 1), ctx);
  transfer(logits, row, ctx);
}

}  // namespace

GenerateResult generate(const Model& model, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const std::function<void(int32_t)>& on_token, Context& ctx) {
  const auto N = static_cast<int64_t>(prompt.size()), positions = model.config.max_position_embeddings;
  if (N == 0) throw bad_input("the prompt has no tokens");
  if (N >= positions) throw bad_input("the prompt has {} tokens; the model has positions for {}", N, positions);
  const int64_t most = std::min(options.max_tokens, positions - N);
  ContiguousCache memory = make_cache(model, 1, N + most);
  std::vector<float> values(static_cast<size_t>(model.config.vocab_size));
  const Tensor logits = view_of(values.data(), 1, model.config.vocab_size);
  GenerateResult result;

  const auto start = std::chrono::steady_clock::now();
  prefill(
      model, view_of(prompt.data(), 1, N), memory.cache, kPrefillTokens,
      [&](int64_t first, int64_t count, Tensor hidden) {
        if (first + count == N) last_logits(logits, model, hidden, ctx);
      },
      ctx);
  const auto draw = [&] {
    const double uniform = random_uniform(options.seed, 0, static_cast<uint64_t>(result.tokens));
    return sample_token(logits, options.sampling, uniform);
  };
  int32_t id = draw();
  result.prefill_seconds = seconds_since(start);

  const bool greedy = options.sampling.temperature == 0;  // the decoder then chooses by itself
  Decoder decoder(model, memory.cache, ctx);
  while (result.tokens < most) {
    result.stopped = std::find(options.stop.begin(), options.stop.end(), id) != options.stop.end();
    if (result.stopped) break;
    on_token(id);
    if (++result.tokens == most) break;
    const auto step = std::chrono::steady_clock::now();
    if (!greedy || result.decode_steps == 0)
      decoder.start(std::array{id}, std::array{static_cast<int32_t>(N + result.tokens - 1)});
    decoder.step();
    if (greedy)
      id = decoder.tokens()[0];
    else
      transfer(logits, decoder.logits(), ctx);
    result.decode_seconds += seconds_since(step);
    ++result.decode_steps;
    if (!greedy) id = draw();
  }
  return result;
}

}  // namespace tangram
