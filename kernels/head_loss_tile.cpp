#include "kernels/head_loss_tile.h"

#include <memory>

#include "kernels/check.h"
#include "kernels/online_softmax.h"

namespace tangram {
namespace {

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

void write_token(const HeadLosses& out, const TokenState& state, int32_t target, int64_t n) {
  const OnlineSoftmax &s = state.student, &t = state.teacher;
  if (out.cross_entropy.data)
    out.cross_entropy.as<float>()[n] = target < 0 ? 0 : float(double(s.max) - state.target_logit + std::log(s.sum));
  if (out.kl.data)
    out.kl.as<float>()[n] = float(t.weighted / t.sum - (double(t.max) - s.max) - std::log(t.sum / s.sum));
  if (out.greedy.data) out.greedy.as<int32_t>()[n] = state.top.ids[0];
  if (out.teacher_rank.data) out.teacher_rank.as<int32_t>()[n] = state.top.place_of(state.teacher_top.ids[0]);
}

LogitRow logit_row(const LogitTile& logits, int64_t n) {
  return {logits.student.row<float>(n), logits.teacher.data ? logits.teacher.row<float>(n) : nullptr, logits.first_id,
          logits.student.cols};
}

int32_t target_of(const TileTokens& tokens, int64_t n) { return tokens.targets ? tokens.targets[n] : -1; }

}  // namespace

int64_t token_state_bytes(Device device) {
  if constexpr (kCudaBuilt)
    if (device == Device::cuda) return cuda::token_state_bytes();
  return sizeof(TokenState);
}

void add_logits(const TileTokens& tokens, const LogitTile& logits, bool want_top, Context& ctx) {
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {tokens.states, logits.student, logits.teacher}))
      return cuda::add_logits(tokens, logits, want_top, ctx);
  auto* states = tokens.states.as<TokenState>();
  const int64_t count = logits.student.rows;
  if (logits.first_id == 0) std::uninitialized_fill_n(states, count, TokenState{});
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
  for (int64_t n = 0; n < count; ++n) add_row(states[n], logit_row(logits, n), target_of(tokens, n), want_top);
}

void write_losses(const HeadLosses& out, const TileTokens& tokens, Context& ctx) {
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {tokens.states, out.cross_entropy, out.kl, out.greedy, out.teacher_rank}))
      return cuda::write_losses(out, tokens, ctx);
  for (int64_t n = 0; n < tokens.states.rows; ++n)
    write_token(out, tokens.states.as<TokenState>()[n], target_of(tokens, n), n);
}

void write_gradient(Tensor dlogits, const LogitTile& logits, const TileTokens& tokens, const HeadObjective& objective,
                    Context& ctx) {
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {dlogits, logits.student, logits.teacher, tokens.states}))
      return cuda::write_gradient(dlogits, logits, tokens, objective, ctx);
  dispatch(dlogits.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
    for (int64_t n = 0; n < dlogits.rows; ++n) {
      const float weight = tokens.weights ? tokens.weights[n] : 1;
      gradient_row(dlogits.row<T>(n), logit_row(logits, n), tokens.states.as<TokenState>()[n], target_of(tokens, n),
                   weight * objective.cross_entropy_scale, weight * objective.kl_scale);
    }
  });
}

}  // namespace tangram
