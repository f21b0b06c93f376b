#include "kernels/head_loss.h"

#include <memory>

#include "kernels/check.h"
#include "kernels/matmul.h"
#include "kernels/online_softmax.h"

namespace tangram {
namespace {

/// Tokens and vocabulary entries whose logits are in memory together.
struct Tile {
  int64_t tokens, vocab;
};

// Fewer tokens than the minimum make the products with the head wait for memory.
constexpr int64_t kMinTileTokens = 64, kChunkedTileTokens = 256, kMaxTileTokens = 1024;

// The whole vocabulary for as many tokens as fit, since the backward pass then needs no logit twice; if those are too
// few, part of the vocabulary.
Tile tile_of(const HeadInputs& in, bool backward) {
  const Tensor hidden = in.student.hidden;
  const int64_t N = hidden.rows, V = in.student.weight.values.rows;
  const int64_t element_bytes = 4 + (in.teacher ? 4 : 0) + (backward && hidden.dtype != DType::f32 ? 2 : 0);
  const int64_t elements = in.tile_bytes / element_bytes, whole_rows = elements / V;
  if (whole_rows >= std::min(N, kMinTileTokens)) return {std::min({N, whole_rows, kMaxTileTokens}), V};
  const int64_t tokens = std::clamp<int64_t>(elements / kSoftmaxSegment, 1, std::min(N, kChunkedTileTokens));
  const int64_t segments = std::max<int64_t>(1, elements / tokens / kSoftmaxSegment);
  return {tokens, std::min(V, segments * kSoftmaxSegment)};
}

/// What has been seen of one token's logits.
struct TokenState {
  OnlineSoftmax student, teacher;  ///< teacher.weighted: of t - l
  TopValues<kHeadTopTokens> top;   ///< of the student
  TopValues<1> teacher_top;
  float target_logit = 0;
};

/// Logits of one token, ids first to first + count; t is null without a teacher.
struct LogitRow {
  const float *l, *t;
  int64_t first, count;
};

template <int K>
void add_top(TopValues<K>& top, const float* x, float max, int64_t first, int64_t count) {
  if (!(max > top.values[K - 1])) return;
  for (int64_t i = 0; i < count; ++i) top.add(x[i], static_cast<int32_t>(first + i));
}

void add_segment(TokenState& state, const LogitRow& row, bool want_top) {
  const float *l = row.l, *t = row.t;
  const float l_max = max_of(l, row.count);
  if (want_top) add_top(state.top, l, l_max, row.first, row.count);
  state.student.add(l_max, exp_sum(l, l_max, row.count));
  if (!t) return;

  const float t_max = max_of(t, row.count);
  if (want_top) add_top(state.teacher_top, t, t_max, row.first, row.count);
  float sum = 0, weighted = 0;
#pragma omp simd reduction(+ : sum, weighted)
  for (int64_t i = 0; i < row.count; ++i) {
    const float e = fast_exp(t[i] - t_max);
    sum += e;
    weighted += e * (t[i] - l[i]);
  }
  state.teacher.add(t_max, sum, weighted);
}

void add_row(TokenState& state, const LogitRow& row, int32_t target, bool want_top) {
  for (int64_t i = 0; i < row.count; i += kSoftmaxSegment)
    add_segment(state,
                {row.l + i, row.t ? row.t + i : nullptr, row.first + i, std::min(kSoftmaxSegment, row.count - i)},
                want_top);
  if (target >= row.first && target < row.first + row.count) state.target_logit = row.l[target - row.first];
}

// dl may be row.l.
template <class T>
void gradient_row(T* dl, const LogitRow& row, const TokenState& state, int32_t target, float ce_scale, float kl_scale) {
  if (target < 0) ce_scale = 0;
  const float *l = row.l, *t = row.t;
  const float l_max = state.student.max, student_scale = float((ce_scale + kl_scale) / state.student.sum);
  const int64_t at = target - row.first;
  const bool target_here = ce_scale != 0 && at >= 0 && at < row.count;
  const float target_logit = target_here ? l[at] : 0;  // read before dl overwrites it
  const float t_max = state.teacher.max, teacher_scale = t ? float(kl_scale / state.teacher.sum) : 0;
  if (teacher_scale != 0) {
#pragma GCC ivdep
    for (int64_t i = 0; i < row.count; ++i)
      dl[i] = T(student_scale * fast_exp(l[i] - l_max) - teacher_scale * fast_exp(t[i] - t_max));
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < row.count; ++i) dl[i] = T(student_scale * fast_exp(l[i] - l_max));
  }
  if (target_here) {
    const float teacher_part = teacher_scale != 0 ? teacher_scale * fast_exp(t[at] - t_max) : 0;
    dl[at] = T(student_scale * fast_exp(target_logit - l_max) - ce_scale - teacher_part);
  }
}

/// One call: its arguments and the scratch memory of a tile.
struct Pass {
  const HeadLosses& out;
  const HeadInputs& in;
  Context& ctx;
  int64_t vocab;
  Tile tile;
  bool want_top;
  Tensor logits{}, teacher_logits{};  ///< (tile.tokens, tile.vocab)  f32
  Tensor dlogits{};                   ///< like logits, T; the same memory if T is f32
  Tensor dhidden{};                   ///< (tile.tokens, H)  f32
  TokenState* states = nullptr;       ///< (tile.tokens)

  int32_t target(int64_t n) const { return in.targets.empty() ? -1 : in.targets[n]; }
  int64_t last_chunk() const { return (vocab - 1) / tile.vocab * tile.vocab; }
};

Pass make_pass(const HeadLosses& out, const HeadInputs& in, bool backward, Context& ctx) {
  const Tensor hidden = in.student.hidden;
  const Tile tile = tile_of(in, backward);
  Pass pass{.out = out,
            .in = in,
            .ctx = ctx,
            .vocab = in.student.weight.values.rows,
            .tile = tile,
            .want_top = out.greedy.data || out.teacher_rank.data};
  pass.logits = ctx.scratch.tensor(tile.tokens, tile.vocab, DType::f32);
  if (in.teacher) pass.teacher_logits = ctx.scratch.tensor(tile.tokens, tile.vocab, DType::f32);
  pass.states = ctx.scratch.tensor(tile.tokens, sizeof(TokenState), DType::u8).as<TokenState>();
  if (!backward) return pass;
  const bool in_place = hidden.dtype == DType::f32;
  pass.dlogits = in_place ? pass.logits : ctx.scratch.tensor(tile.tokens, tile.vocab, hidden.dtype);
  pass.dhidden = ctx.scratch.tensor(tile.tokens, hidden.cols, DType::f32);
  return pass;
}

/// Tokens [first, first + count) and vocabulary entries [vocab_first, vocab_first + vocab_count).
struct Chunk {
  int64_t first, count, vocab_first, vocab_count;
};

Chunk chunk_at(const Pass& pass, int64_t first, int64_t vocab_first) {
  return {first, std::min(pass.tile.tokens, pass.in.student.hidden.rows - first), vocab_first,
          std::min(pass.tile.vocab, pass.vocab - vocab_first)};
}

Weight weight_rows(const Weight& weight, const Chunk& chunk) {
  return weight.values.row_range(chunk.vocab_first, chunk.vocab_count);
}

void compute_logits(Pass& pass, const Chunk& chunk) {
  const auto product = [&](Tensor logits, const Head& head) {
    matmul_forward(logits.row_range(0, chunk.count).col_range(0, chunk.vocab_count),
                   head.hidden.row_range(chunk.first, chunk.count), weight_rows(head.weight, chunk), pass.ctx);
  };
  product(pass.logits, pass.in.student);
  if (pass.in.teacher) product(pass.teacher_logits, *pass.in.teacher);
}

LogitRow logit_row(const Pass& pass, const Chunk& chunk, int64_t i) {
  return {pass.logits.row<float>(i), pass.in.teacher ? pass.teacher_logits.row<float>(i) : nullptr, chunk.vocab_first,
          chunk.vocab_count};
}

void write_losses(const Pass& pass, const TokenState& state, int64_t n) {
  const OnlineSoftmax &s = state.student, &t = state.teacher;
  const HeadLosses& out = pass.out;
  if (out.cross_entropy.data)
    out.cross_entropy.as<float>()[n] =
        pass.target(n) < 0 ? 0 : float(double(s.max) - state.target_logit + std::log(s.sum));
  if (out.kl.data)
    out.kl.as<float>()[n] = float(t.weighted / t.sum - (double(t.max) - s.max) - std::log(t.sum / s.sum));
  if (out.greedy.data) out.greedy.as<int32_t>()[n] = state.top.ids[0];
  if (out.teacher_rank.data) out.teacher_rank.as<int32_t>()[n] = state.top.place_of(state.teacher_top.ids[0]);
}

void forward_tile(Pass& pass, int64_t first) {
  const int64_t count = chunk_at(pass, first, 0).count;
  std::uninitialized_fill_n(pass.states, count, TokenState{});
  for (int64_t v = 0; v < pass.vocab; v += pass.tile.vocab) {
    const Chunk chunk = chunk_at(pass, first, v);
    compute_logits(pass, chunk);
#pragma omp parallel for num_threads(pass.ctx.threads) schedule(static)
    for (int64_t i = 0; i < count; ++i)
      add_row(pass.states[i], logit_row(pass, chunk, i), pass.target(first + i), pass.want_top);
  }
  for (int64_t i = 0; i < count; ++i) write_losses(pass, pass.states[i], first + i);
}

void backward_tile(Pass& pass, int64_t first, Tensor dhidden, Tensor dweight, const HeadObjective& objective) {
  const int64_t count = chunk_at(pass, first, 0).count;
  const Tensor hidden = pass.in.student.hidden.row_range(first, count), dhidden_sum = pass.dhidden.row_range(0, count);
  const int64_t last = pass.last_chunk();
  for (int64_t v = last; v >= 0; v -= pass.tile.vocab) {  // backwards: the logits of the last chunk are still there
    const Chunk chunk = chunk_at(pass, first, v);
    if (v != last) compute_logits(pass, chunk);
    dispatch(hidden.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(pass.ctx.threads) schedule(static)
      for (int64_t i = 0; i < count; ++i) {
        const float weight = objective.weights.empty() ? 1 : objective.weights[first + i];
        gradient_row(pass.dlogits.row<T>(i), logit_row(pass, chunk, i), pass.states[i], pass.target(first + i),
                     weight * objective.cross_entropy_scale, weight * objective.kl_scale);
      }
    });
    const Tensor dlogits = pass.dlogits.row_range(0, count).col_range(0, chunk.vocab_count);
    matmul_backward_input(dhidden_sum, dlogits, weight_rows(pass.in.student.weight, chunk), pass.ctx, v != last);
    if (dweight.data)
      matmul_backward_weight(dweight.row_range(chunk.vocab_first, chunk.vocab_count), dlogits, hidden, pass.ctx);
  }
  copy(dhidden.row_range(first, count), dhidden_sum);
}

void check_head(const char* role, const Head& head, int64_t N, int64_t V) {
  const Tensor hidden = head.hidden, weight = head.weight.values;
  CHECK(hidden.rows == N && weight.rows == V && hidden.cols == weight.cols && hidden.dtype == weight.dtype,
        "{}: hidden ({}, {}) {}, head ({}, {}) {}; expected {} tokens, {} vocabulary entries", role, hidden.rows,
        hidden.cols, name_of(hidden.dtype), weight.rows, weight.cols, name_of(weight.dtype), N, V);
}

void check_result(const char* name, Tensor x, DType dtype, int64_t N, bool has_input, const char* input) {
  if (!x.data) return;
  CHECK(has_input, "{} needs {}", name, input);
  check_tensor(name, x, 1, N, dtype);
}

void check_forward(const HeadLosses& out, const HeadInputs& in) {
  const int64_t N = in.student.hidden.rows, V = in.student.weight.values.rows;
  CHECK(V > 0, "the vocabulary is empty");
  check_head("student", in.student, N, V);
  if (in.teacher) check_head("teacher", *in.teacher, N, V);
  check_result("cross_entropy", out.cross_entropy, DType::f32, N, !in.targets.empty() || N == 0, "targets");
  check_result("kl", out.kl, DType::f32, N, in.teacher.has_value(), "a teacher");
  check_result("greedy", out.greedy, DType::i32, N, true, "");
  check_result("teacher_rank", out.teacher_rank, DType::i32, N, in.teacher.has_value(), "a teacher");
  if (in.targets.empty()) return;
  CHECK(int64_t(in.targets.size()) == N, "{} targets for {} tokens", in.targets.size(), N);
  for (int64_t n = 0; n < N; ++n)
    if (in.targets[n] >= V)
      throw bad_input("target {} of token {}: the vocabulary has {} entries", in.targets[n], n, V);
}

void check_backward(Tensor dhidden, Tensor dweight, const HeadInputs& in, const HeadObjective& objective) {
  const Tensor hidden = in.student.hidden, weight = in.student.weight.values;
  check_tensor("dhidden", dhidden, hidden.rows, hidden.cols, hidden.dtype);
  if (dweight.data) check_tensor("dweight", dweight, weight.rows, weight.cols, DType::f32);
  CHECK(objective.weights.empty() || int64_t(objective.weights.size()) == hidden.rows, "{} weights for {} tokens",
        objective.weights.size(), hidden.rows);
  CHECK(objective.cross_entropy_scale == 0 || !in.targets.empty() || hidden.rows == 0, "cross-entropy needs targets");
  CHECK(objective.kl_scale == 0 || in.teacher, "kl needs a teacher");
}

}  // namespace

void head_loss_forward(const HeadLosses& out, const HeadInputs& in, Context& ctx) {
  check_forward(out, in);
  const ArenaScope scope(ctx.scratch);
  Pass pass = make_pass(out, in, false, ctx);
  for (int64_t n = 0; n < in.student.hidden.rows; n += pass.tile.tokens) forward_tile(pass, n);
}

void head_loss_forward_backward(const HeadLosses& out, Tensor dhidden, Tensor dweight, const HeadInputs& in,
                                const HeadObjective& objective, Context& ctx) {
  check_forward(out, in);
  check_backward(dhidden, dweight, in, objective);
  const ArenaScope scope(ctx.scratch);
  Pass pass = make_pass(out, in, true, ctx);
  for (int64_t n = 0; n < in.student.hidden.rows; n += pass.tile.tokens) {
    forward_tile(pass, n);
    backward_tile(pass, n, dhidden, dweight, objective);
  }
}

}  // namespace tangram
