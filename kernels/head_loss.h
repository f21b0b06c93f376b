#pragma once
#include <optional>
#include <span>

#include "kernels/indices.h"
#include "kernels/weight.h"

namespace tangram {

/// The last step of a language model: logits[n,v] = hidden[n] . weight[v].
struct Head {
  Tensor hidden;  ///< (N, H)  T
  Weight weight;  ///< (V, H)  T
};

/// What the losses are computed from. Teacher and student share N and V; H and T may differ. Give a teacher only where
/// a result needs it: its logits are computed, too. A smaller tile costs nothing forward; backward it does where the
/// whole vocabulary no longer fits beside 64 tokens, for the logits are then computed twice.
struct HeadInputs {
  Head student;
  std::optional<Head> teacher = {};
  Indices targets = {};    ///< (N) the true next token; < 0: not counted. Empty: no cross-entropy.
  int64_t tile_bytes = 0;  ///< logits in memory at one time, at least 512 of one token; 0: what the device likes
};

/// Results for each token; an empty tensor is not computed. With l and t the student's and the teacher's logits,
///
///   cross_entropy[n] = lse_l[n] - l[n, target[n]], 0 if target[n] < 0      lse_x[n] = log sum_v exp x[n,v]
///   kl[n]            = sum_v p_t[n,v] (log p_t[n,v] - log p_l[n,v])        p_x[n,v] = exp(x[n,v] - lse_x[n])
///   greedy[n]        = argmax_v l[n,v]
///   teacher_rank[n]  = place of argmax_v t[n,v] among the student's logits, 0 the largest; kHeadTopTokens if below
///
/// Of equal logits the lower id is the larger.
struct HeadLosses {
  Tensor cross_entropy = {};  ///< (1, N)  f32
  Tensor kl = {};             ///< (1, N)  f32   KL(teacher || student), in nats; rounding may take it 1e-6 below 0
  Tensor greedy = {};         ///< (1, N)  i32
  Tensor teacher_rank = {};   ///< (1, N)  i32   top-k agreement is teacher_rank < k, for k up to kHeadTopTokens
};
inline constexpr int kHeadTopTokens = 10;

/// Losses on next-token distributions, without the (N, V) logits ever standing in memory: a tile of tokens meets the
/// vocabulary in chunks, and running maxima and sums (Milakov & Gimelshein 2018, arXiv:1805.02867) carry the
/// softmax from one to the next. Logits are f32 whatever T is; their sums run over 512 logits in f32, then in f64.
///
/// A token's results depend on no other token's values; the number of tokens and `tile_bytes` set the shapes of the
/// matrix products, and with them the last bits of the logits. A model that is compared with itself has kl = 0.
/// Throws Error if shapes disagree, a target is not below V, or a result is wanted without the input that it needs.
void head_loss_forward(const HeadLosses& out, const HeadInputs& in, Context& ctx);

/// The scalar that is differentiated:
///
///   sum_n weights[n] (cross_entropy_scale cross_entropy[n] + kl_scale kl[n])
///
/// Averages belong into the scales.
struct HeadObjective {
  float cross_entropy_scale = 0;        ///< needs targets, unless 0
  float kl_scale = 0;                   ///< needs a teacher, unless 0
  std::span<const float> weights = {};  ///< (N); empty: all 1
};

/// head_loss_forward, and in the same pass the gradient of the objective to the student, with p and y the student's
/// and the one-hot target distribution (y = p where target < 0) and c, k the two scales:
///
///   dl[n,v] = weights[n] (c (p[n,v] - y[n,v]) + k (p[n,v] - p_t[n,v]))
///   dhidden[n] = sum_v dl[n,v] weight[v]            dweight[v] += sum_n dl[n,v] hidden[n]
///
///   dhidden  (N, H)  T     overwritten; must not overlap hidden
///   dweight  (V, H)  f32   accumulated; empty: not wanted (a frozen head)
///
/// dl is rounded to T before the two products. Where the vocabulary fits in one chunk no logit is computed twice.
void head_loss_forward_backward(const HeadLosses& out, Tensor dhidden, Tensor dweight, const HeadInputs& in,
                                const HeadObjective& objective, Context& ctx);

}  // namespace tangram
