#include "blocks/decoder.h"

#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/greedy.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

template <class F>
int64_t bytes_of(const F& lay_out) {
  Arena planner = Arena::planner();
  lay_out(planner);
  return planner.used_bytes();
}

}  // namespace

Decoder::Buffers Decoder::lay_out(const Model& model, int64_t S, Arena& memory) {
  const ModelConfig& config = model.config;
  Buffers b;
  b.offsets = memory.tensor(1, S + 1, DType::i32);
  b.past = memory.tensor(1, S, DType::i32);
  const Tensor chosen = memory.tensor(1, 2 * S, DType::i32);
  b.ids = chosen.col_range(0, S), b.best = chosen.col_range(S, S);
  b.best.dtype = DType::f32;
  b.rope = memory.tensor(S, config.head_dim, DType::f32);
  b.hidden = memory.tensor(S, config.hidden_size, model.dtype);
  b.logits = memory.tensor(S, config.vocab_size, DType::f32);
  return b;
}

Decoder::Decoder(const Model& model, KvCache& cache, Context& ctx)
    : model_(model),
      cache_(cache),
      ctx_(ctx),
      frequencies_(rope_frequencies(model.config.head_dim, model.config.rope_theta, model.config.rope_scaling)),
      memory_(bytes_of([&](Arena& planner) { lay_out(model, cache.sequences(), planner); }), ctx.device),
      buffers_(lay_out(model, cache.sequences(), memory_)),
      graph_([this] { run_step(); }) {
  std::vector<int32_t> offsets(static_cast<size_t>(cache.sequences()) + 1);
  std::iota(offsets.begin(), offsets.end(), 0);
  transfer(buffers_.offsets, view_of(offsets.data(), 1, std::ssize(offsets)), ctx);
}

void Decoder::start(std::span<const int32_t> tokens, std::span<const int32_t> past) {
  const int64_t S = cache_.sequences();
  CHECK(std::ssize(tokens) == S && std::ssize(past) == S, "{} tokens behind {} for {} sequences", tokens.size(),
        past.size(), S);
  for (const int32_t id : tokens)
    if (id < 0 || id >= model_.config.vocab_size)
      throw bad_input("token {}: the vocabulary has {}", id, model_.config.vocab_size);
  transfer(buffers_.ids, view_of(tokens.data(), 1, S), ctx_);
  transfer(buffers_.past, view_of(past.data(), 1, S), ctx_);
  past_.assign(past.begin(), past.end());
}

void Decoder::step() {
  CHECK(!past_.empty(), "a decoder steps before it was started");
  for (size_t s = 0; s < past_.size(); ++s)
    CHECK(past_[s] >= 0 && past_[s] < cache_.capacity_tokens(), "sequence {} outgrows its cache of {} tokens", s,
          cache_.capacity_tokens());
  cache_.update(ctx_);
  graph_.launch(ctx_);
  for (int32_t& p : past_) ++p;
}

void Decoder::run_step() {
  const Sequences sequences{indices_in(buffers_.offsets), indices_in(buffers_.past), buffers_.rope};
  rope_angles(buffers_.rope, sequences.past, frequencies_, ctx_);
  model_infer(buffers_.hidden, model_, indices_in(buffers_.ids), sequences, cache_, ctx_);
  const WeightsAtRest at_rest(ctx_);
  model_logits(buffers_.logits, model_, buffers_.hidden, ctx_);
  greedy_step(buffers_.ids, buffers_.best, buffers_.past, buffers_.logits, ctx_);
}

std::vector<int32_t> Decoder::tokens() {
  const size_t S = past_.size();
  std::vector<int32_t> chosen(2 * S);
  Tensor both = buffers_.ids;
  both.cols *= 2;
  transfer(view_of(chosen.data(), 1, both.cols), both, ctx_);
  for (size_t s = 0; s < S; ++s) {
    const auto best = std::bit_cast<float>(chosen[S + s]);
    CHECK(std::isfinite(best), "the largest logit of sequence {} is {}", s, best);
  }
  chosen.resize(S);
  return chosen;
}

}  // namespace tangram
