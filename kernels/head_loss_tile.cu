#include "kernels/head_loss_tile.h"

#include "kernels/candidate.cuh"
#include "kernels/cover.cuh"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 256;  // of a block, which owns a token
constexpr int kWarps = kThreads / kWarp;
constexpr int kPacksAtOnce = 2;  // of a thread and a row
constexpr int kTop = kHeadTopTokens;

// What a pack that is not there holds: it adds nothing, and the difference of two such logits is 0.
constexpr float kAbsent = -3.4e38f;

/// What has been seen of one token's logits: sums over exp(max), `weighted` that of (t - l) by the teacher's softmax.
struct TokenState {
  double student_sum, teacher_sum, weighted;
  float student_max, teacher_max, target_logit;
  float student_inverse, teacher_inverse;  // 1 / sum, from write_losses on
  Candidate teacher_top, top[kTop];
};

/// e^x for x <= 0 in three instructions; 0 below -87. Not __expf, whose last product might melt into a sum here and not
/// there: equal logits shall have equal sums.
__device__ float exp_below(float x) {
  constexpr float kLog2e = 1.44269504f;
#ifdef TANGRAM_CUDA_EMULATOR
  return std::exp2(x * kLog2e);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * kLog2e));
  return y;
#endif
}

/// A softmax seen piece by piece: the sum of e^(x - max), and that times something.
template <class F>
struct Softmax {
  float max = -INFINITY;
  F sum = 0, weighted = 0;

  // Written out, so that equal rows give equal bits.
  __device__ void add(float piece_max, F piece_sum, F piece_weighted, F old_scale, F piece_scale) {
    sum = fma(sum, old_scale, piece_sum * piece_scale);
    weighted = fma(weighted, old_scale, piece_weighted * piece_scale);
    max = piece_max;
  }
};

template <int M>
__device__ float max_of(const float (&x)[M]) {
  float m = x[0];
#pragma unroll
  for (int i = 1; i < M; ++i) m = fmaxf(m, x[i]);
  return m;
}

/// Takes in M logits x, and if kWeighted what they differ from y; `largest` is max_of(x).
template <bool kWeighted, int M>
__device__ void add_values(Softmax<float>& s, const float (&x)[M], const float (&y)[M], float largest) {
  const float max = fmaxf(s.max, largest);
  float sum = 0, weighted = 0;
#pragma unroll
  for (int i = 0; i < M; ++i) {
    const float e = exp_below(x[i] - max);
    sum += e;
    if constexpr (kWeighted) weighted = fmaf(e, x[i] - y[i], weighted);
  }
  s.add(max, sum, weighted, exp_below(s.max - max), 1);
}

/// The softmax of all threads of the block, in every thread. `floats` and `doubles` have a number for each warp.
__device__ Softmax<double> join(const Softmax<float>& s, float* floats, double* doubles) {
  float max = s.max;
  for (int mask = kWarp / 2; mask > 0; mask /= 2) max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, mask));
  if (threadIdx.x % kWarp == 0) floats[threadIdx.x / kWarp] = max;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) max = fmaxf(max, floats[w]);
  Softmax<double> joined;
  joined.max = max;
  const double scale = exp_below(s.max - max);
  joined.sum = block_sum(s.sum * scale, doubles);
  __syncthreads();
  joined.weighted = block_sum(s.weighted * scale, doubles);
  return joined;
}

/// The softmax of the chunks before and of this one.
__device__ Softmax<double> join(Softmax<double> before, const Softmax<double>& chunk) {
  const float max = fmaxf(before.max, chunk.max);
  before.add(max, chunk.sum, chunk.weighted, exp(double(before.max) - max), exp(double(chunk.max) - max));
  return before;
}

struct Chunk {
  Matrix<float> student, teacher;
  TokenState* states;
  const int32_t* targets;
  int packs, first_id;  // first_id 0: the states begin
};

template <int N>
__device__ void load(float (&x)[N * kPacksAtOnce], const Pack<float, N>* row, int first_pack, int packs) {
#pragma unroll
  for (int k = 0; k < kPacksAtOnce; ++k) {
    const int i = first_pack + k * kThreads;
    const Pack<float, N> p = row[min(i, packs - 1)];
#pragma unroll
    for (int j = 0; j < N; ++j) x[k * N + j] = i < packs ? p.v[j] : kAbsent;
  }
}

/// The largest of the state's and of the warps' lists go into the state.
__device__ void merge_top(TokenState& state, const WarpTop<kTop>& top, Candidate (&lists)[kWarps + 1][kTop],
                          bool first) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (lane < kTop) lists[warp][lane] = top.mine();
  if (warp == 0 && lane < kTop) lists[kWarps][lane] = first ? no_candidate() : state.top[lane];
  __syncthreads();
  const Candidate* all = lists[0];
  constexpr int kAll = (kWarps + 1) * kTop;
  static_assert(kAll <= kThreads);
  if (int(threadIdx.x) >= kAll) return;
  const Candidate mine = all[threadIdx.x];
  int place = 0;
  for (int i = 0; i < kAll; ++i) {
    const bool same = all[i].rank == mine.rank && all[i].id == mine.id;  // two that are none
    place += beats(all[i], mine) || (same && i < int(threadIdx.x));
  }
  if (place < kTop) state.top[place] = mine;
}

// One pass over a token's logits.
template <int N, bool kTeacher, bool kWantTop>
__global__ void __launch_bounds__(kThreads, 3) add_kernel(Chunk a) {
  constexpr int M = N * kPacksAtOnce;
  __shared__ float floats[2][kWarps];
  __shared__ double doubles[2][kWarps];
  __shared__ Candidate of_warps[kWarps], lists[kWarps + 1][kTop];
  const auto* l_row = a.student.template packs<N>(blockIdx.x);
  const auto* t_row = a.teacher.template packs<N>(blockIdx.x);
  Softmax<float> student, teacher;
  WarpTop<kTop> top;
  Candidate teacher_top = no_candidate();

  // As many steps in every thread, since the lanes of a warp compare what they have.
  for (int step = 0; step < a.packs; step += kThreads * kPacksAtOnce) {
    const int first = step + int(threadIdx.x);
    const auto id = [&](int i) { return a.first_id + (first + i / N * kThreads) * N + i % N; };
    float l[M], t[M];
    load<N>(l, l_row, first, a.packs);
    if constexpr (kTeacher) load<N>(t, t_row, first, a.packs);
    const float l_max = max_of(l);
    add_values<false>(student, l, l, l_max);
    if constexpr (kWantTop) {
      unsigned present = 0;
      for (int k = 0; k < kPacksAtOnce; ++k)
        if (first + k * kThreads < a.packs) present |= ((1u << N) - 1) << (k * N);
      top.add(l, l_max, present, id);
    }
    if constexpr (!kTeacher) continue;
    const float t_max = max_of(t);
    add_values<true>(teacher, t, l, t_max);
    if (kWantTop && first < a.packs && t_max > teacher_top.rank)
      for (int i = 0; i < M; ++i) teacher_top = better(teacher_top, {t[i], id(i)});
  }

  TokenState& state = a.states[blockIdx.x];
  const bool first = a.first_id == 0;
  Softmax<double> l = join(student, floats[0], doubles[0]), t;
  if constexpr (kTeacher) t = join(teacher, floats[1], doubles[1]);
  if constexpr (kWantTop) {
    merge_top(state, top, lists, first);
    teacher_top = best_of_warp(teacher_top);
    if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = teacher_top;
    __syncthreads();
  }
  if (threadIdx.x > 0) return;
  if (!first) l = join({state.student_max, state.student_sum, 0}, l);
  state.student_max = l.max, state.student_sum = l.sum;
  if constexpr (kTeacher) {
    if (!first) t = join({state.teacher_max, state.teacher_sum, state.weighted}, t);
    state.teacher_max = t.max, state.teacher_sum = t.sum, state.weighted = t.weighted;
  }
  if constexpr (kTeacher && kWantTop) {
    for (const Candidate c : of_warps) teacher_top = better(teacher_top, c);
    state.teacher_top = first ? teacher_top : better(state.teacher_top, teacher_top);
  }
  const int64_t at = int64_t{a.targets ? a.targets[blockIdx.x] : -1} - a.first_id;
  if (at >= 0 && at < int64_t{a.packs} * N) state.target_logit = a.student.row(blockIdx.x)[at];
}

struct Results {
  float *cross_entropy, *kl;
  int32_t *greedy, *teacher_rank;
};

__global__ void __launch_bounds__(kThreads)
    losses_kernel(Results out, TokenState* states, const int32_t* targets, int64_t count) {
  const int64_t n = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (n >= count) return;
  TokenState& s = states[n];
  if (out.cross_entropy)
    out.cross_entropy[n] = targets[n] < 0 ? 0 : float(double(s.student_max) - s.target_logit + log(s.student_sum));
  if (out.kl)
    out.kl[n] = float(s.weighted / s.teacher_sum - (double(s.teacher_max) - s.student_max) -
                      log(s.teacher_sum / s.student_sum));
  if (out.greedy) out.greedy[n] = s.top[0].id == kNoId ? -1 : s.top[0].id;
  if (out.teacher_rank) {
    int place = 0;
    while (place < kTop && s.top[place].id != s.teacher_top.id) ++place;
    out.teacher_rank[n] = place;
  }
  s.student_inverse = float(1 / s.student_sum);
  s.teacher_inverse = float(1 / s.teacher_sum);  // of garbage without a teacher, and not looked at
}

struct Gradient {
  Matrix<float> student, teacher;  // without data: no part of the objective
  const TokenState* states;
  const int32_t* targets;
  const float* weights;
  int64_t first_id;
  float cross_entropy_scale, kl_scale;
};

// One pass from logits to their gradient, which may lie over them.
template <class E, int N>
__global__ void __launch_bounds__(kCoverThreads)
    gradient_kernel(Matrix<E> dlogits, Gradient a, int64_t rows, int64_t cols) {
  for_each_pack<N>(rows, cols, [&](int64_t n, int64_t c) {
    const Pack<float, N> l = a.student.template at<N>(n, c);
    Pack<float, N> t = {};
    if (a.teacher.data) t = a.teacher.template at<N>(n, c);
    const TokenState& s = a.states[n];
    const int64_t target = a.targets ? a.targets[n] : -1, at = target - a.first_id - c;
    const float weight = a.weights ? a.weights[n] : 1, kl_scale = weight * a.kl_scale;
    const float ce_scale = target < 0 ? 0 : weight * a.cross_entropy_scale;
    const float l_max = s.student_max, l_scale = (ce_scale + kl_scale) * s.student_inverse;
    const float t_max = s.teacher_max, t_scale = kl_scale * s.teacher_inverse;
    Pack<E, N> dl;
    for (int i = 0; i < N; ++i) {
      float d = l_scale * exp_below(l.v[i] - l_max);
      if (a.teacher.data) d -= t_scale * exp_below(t.v[i] - t_max);
      dl.v[i] = from_float<E>(i == at ? d - ce_scale : d);
    }
    dlogits.template at<N>(n, c) = dl;
  });
}

}  // namespace

int64_t token_state_bytes() { return sizeof(TokenState); }

void add_logits(const TileTokens& tokens, const LogitTile& logits, bool want_top, Context& ctx) {
  const Tensor &l = logits.student, &t = logits.teacher;
  if (l.rows == 0) return;
  CHECK(logits.first_id + l.cols <= INT32_MAX, "a vocabulary of {} or more", logits.first_id + l.cols);
  dispatch_pack<float>({l, t.data ? t : l}, [&]<int N>() {
    const Chunk chunk{matrix<float>(l), matrix<float>(t), tokens.states.as<TokenState>(),
                      tokens.targets,   int(l.cols / N),  int(logits.first_id)};
    const auto kernel = t.data ? (want_top ? add_kernel<N, true, true> : add_kernel<N, true, false>)
                               : (want_top ? add_kernel<N, false, true> : add_kernel<N, false, false>);
    launch(kernel, unsigned(l.rows), kThreads, ctx, chunk);
  });
}

void write_losses(const HeadLosses& out, const TileTokens& tokens, Context& ctx) {
  const int64_t count = tokens.states.rows;
  if (count == 0) return;
  const Results results{data<float>(out.cross_entropy), data<float>(out.kl), data<int32_t>(out.greedy),
                        data<int32_t>(out.teacher_rank)};
  launch(losses_kernel, unsigned(ceil_div(count, kThreads)), kThreads, ctx, results, tokens.states.as<TokenState>(),
         tokens.targets, count);
}

void write_gradient(Tensor dlogits, const LogitTile& logits, const TileTokens& tokens, const HeadObjective& objective,
                    Context& ctx) {
  const Tensor l = logits.student, t = objective.kl_scale == 0 ? Tensor{} : logits.teacher;
  if (l.size() == 0) return;
  dispatch(dlogits.dtype, [&]<class T>() {
    dispatch_pack<T>({dlogits, l, t.data ? t : l}, [&]<int N>() {
      const Gradient gradient{matrix<float>(l), matrix<float>(t), tokens.states.as<TokenState>(), tokens.targets,
                              tokens.weights,   logits.first_id,  objective.cross_entropy_scale,  objective.kl_scale};
      const Cover c = cover<N>(l.rows, l.cols);
      launch(gradient_kernel<Element<T>, N>, c.grid, c.block, ctx, matrix<T>(dlogits), gradient, l.rows, l.cols);
    });
  });
}

}  // namespace tangram::cuda
