#pragma once
#include <memory>
#include <vector>

#include "blocks/model.h"
#include "distill/dataset.h"
#include "distill/trainable.h"

namespace tangram {

/// Weights of the parts of the global loss. Puzzle's is {cosine 1, kl 1}; a language model that is trained from nothing
/// has {cross_entropy 1} and no teacher.
struct GkdLossWeights {
  double cosine = 1, kl = 1, cross_entropy = 0;
};

struct GkdOptions {
  GkdLossWeights loss;
  OptimiserOptions optimiser;
  Schedule schedule;
  int64_t batch_tokens = 0;   ///< of one micro-batch
  int64_t micro_batches = 1;  ///< whose gradients are summed for one step
  /// The teacher's layer that each of the student's blocks ends with; empty: they correspond one to one.
  std::vector<int64_t> teacher_layers = {};
};

/// Parts of the loss of one step, in their own units, before their weights.
struct GkdLosses {
  double cosine = 0;         ///< sum over layers of the mean over tokens of 1 - cos
  double kl = 0;             ///< nats a token, weighted mean
  double cross_entropy = 0;  ///< nats a token, weighted mean over the tokens that have a target
  double gradient_norm = 0;  ///< before clipping
};

/// Global knowledge distillation (Bercovich et al. 2024, arXiv:2411.19146, equation 1): the whole student learns from
/// the teacher's hidden states and next-token distribution, and optionally from the text.
///
///   loss = cosine * sum_l mean_n (1 - cos(h_student[l,n], h_teacher[l,n])) + kl * KL(teacher || student)
///          + cross_entropy * CE(text)
///
/// h_student[l] is the residual stream behind the student's block l, h_teacher[l] behind the teacher's layer that it
/// corresponds to. KL and CE are means over tokens with the batch's weights.
class GkdTrainer {
 public:
  /// Trains `student` in place; its weights must be its own (copy_model). `teacher` may be null if only cross-entropy
  /// has a weight. Throws Error if the blocks of both do not correspond.
  GkdTrainer(Model& student, const Model* teacher, const GkdOptions& options, Context& ctx);

  /// One optimiser step. Throws Error if the loss is not finite.
  GkdLosses step(std::span<const Batch> micro_batches);

  int64_t steps_done() const { return steps_done_; }
  int64_t memory_bytes() const { return state_bytes() + work_bytes(); }
  int64_t state_bytes() const { return state_->used_bytes(); }  ///< gradients, masters (where not the weights), moments
  int64_t work_bytes() const { return work_->used_bytes(); }    ///< activations

  /// Everything that the next step depends on, as views that a checkpoint reads and writes.
  std::vector<NamedTensor> state() const;
  /// Goes on after `steps_done` steps with what was written to `state()`.
  void resume(int64_t steps_done);

 private:
  void lay_out(Arena& state);
  void lay_out_work(Arena& work);
  void micro_step(GkdLosses& losses, const Batch& batch);

  Model& student_;
  const Model* teacher_;
  GkdOptions options_;
  Context& ctx_;
  std::unique_ptr<Arena> state_, work_;
  ModelGrads grads_;
  Trainable trainable_;
  ModelActivations activations_;
  std::vector<Tensor> teacher_hidden_;  // (N, H) behind the layer of each of the student's blocks
  Tensor teacher_final_, dhidden_, token_loss_, token_kl_;
  int64_t steps_done_ = 0;
};

}  // namespace tangram
