#pragma once
#include <memory>
#include <vector>

#include "blocks/model.h"
#include "distill/dataset.h"
#include "distill/model_part.h"
#include "distill/rank_grid.h"
#include "distill/replicas.h"

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
  int64_t shards = 1;         ///< a power of two: so many equal runs of micro-batches, added up as a balanced tree
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

/// What one process does of global distillation: the student's blocks [begin, end), the layers of the teacher that they
/// stand for, the embeddings where begin is 0, and final norm, head and losses behind the last block.
struct GkdPart {
  int64_t begin = 0, end = 0;
  int64_t stage = 0, stages = 1;  ///< of the pipeline of parts
  Replicas replicas = {};         ///< that do the same on other micro-batches
  Communicator* world = nullptr;  ///< its ranks stand in grid(); null for one process, in planning

  bool is_first() const { return stage == 0; }
  bool is_last() const { return stage + 1 == stages; }
  RankGrid grid() const { return {stages, replicas.count}; }
};

/// Global knowledge distillation (Bercovich et al. 2024, arXiv:2411.19146, equation 1): the whole student learns from
/// the teacher's hidden states and next-token distribution, and optionally from the text.
///
///   loss = cosine * sum_l mean_n (1 - cos(h_student[l,n], h_teacher[l,n])) + kl * KL(teacher || student)
///          + cross_entropy * CE(text)
///
/// h_student[l] is the residual stream behind the student's block l, h_teacher[l] behind the teacher's layer that it
/// corresponds to. KL and CE are means over tokens with the batch's weights.
///
/// Several processes share the work, each with a part. Micro-batches go down the stages and their gradients back up,
/// one forward, one backward (1F1B, Narayanan et al. 2019, "PipeDream"): a stage that has d behind it holds the inputs
/// of at most d + 2 micro-batches, of which one arrives meanwhile, and their hidden states of the teacher; activations
/// are computed once more before the backward pass. A replica trains on the micro-batches with the numbers
/// [index, index + 1) * micro_batches / count of each step, and owns some tensors: it alone has their optimiser state.
///
/// No sum depends on the parts: gradients add up over the micro-batches of a shard in order, then as a balanced tree
/// over shards; an embedding that is also the head has the sum of what it gets as either; the norm is that of the norms
/// of all tensors in the order of named_tensors. So students end with the same bits, however the work is cut.
class GkdTrainer {
 public:
  /// Trains the part of `student` in place; its weights must be its own (copy_part). `teacher` may be null if only
  /// cross-entropy has a weight. Throws Error if the blocks of both do not correspond.
  GkdTrainer(Model& student, const Model* teacher, const GkdOptions& options, GkdPart part, Context& ctx);
  /// All of it in one process.
  GkdTrainer(Model& student, const Model* teacher, const GkdOptions& options, Context& ctx);

  /// One optimiser step on the replica's micro-batches; every process gets the losses of all. Throws Error, on all, if
  /// the loss is not finite.
  GkdLosses step(std::span<const Batch> micro_batches);

  int64_t steps_done() const { return steps_done_; }
  int64_t memory_bytes() const { return state_bytes() + work_bytes(); }
  int64_t state_bytes() const { return state_->used_bytes(); }  ///< gradients, masters (where not the weights), moments
  int64_t work_bytes() const { return work_->used_bytes(); }    ///< activations

  /// Everything that the next step depends on and this process owns, as views that a checkpoint reads and writes.
  std::vector<NamedTensor> state() const;
  /// Goes on after `steps_done` steps with what was written to `state()`. All processes call it.
  void resume(int64_t steps_done);

 private:
  /// A micro-batch between its forward and its backward pass.
  struct InFlight {
    Tensor input;                 // (N, H), of the first block
    std::vector<Tensor> teacher;  // (N, H) behind the layer that each block ends with
  };
  enum Loss : size_t { kKl, kCrossEntropy, kCosine };  // then the cosine of the other blocks

  void check_options() const;
  void lay_out(Arena& state);
  void lay_out_gradients(Arena& state);
  void assign_owners();
  void lay_out_work(Arena& work);
  bool is_own(size_t trainable) const { return owners_[trainable] == part_.replicas.index; }
  std::span<const BlockWeights> blocks() const;
  int64_t micro_batches_here() const { return options_.micro_batches / part_.replicas.count; }
  int64_t shards_here() const { return options_.shards / part_.replicas.count; }
  int64_t last_layer(int64_t block) const { return block < 0 ? -1 : options_.teacher_layers[size_t(block)]; }
  InFlight& in_flight(int64_t m) { return in_flight_[static_cast<size_t>(m) % in_flight_.size()]; }

  void exchange(std::vector<Message> messages, const std::vector<Message>& more = {});
  std::vector<Message> stream_in(int64_t m);
  std::vector<Message> stream_out(int64_t m);
  std::vector<Message> gradient_in();
  std::vector<Message> gradient_out();
  void run_micro_batches(std::span<const Batch> batches);
  void teacher_forward(int64_t m, const Batch& batch, const Sequences& sequences);
  void forward(int64_t m, const Batch& batch, const Sequences& sequences);
  void head_losses(int64_t m, const Batch& batch);
  void backward(int64_t m, const Batch& batch, const Sequences& sequences);
  void end_shard(int64_t shard);

  double& loss_number(size_t loss, int64_t m);
  double& norm_number(size_t tensor);
  void add_tied_gradient();
  void share_numbers();
  GkdLosses losses_of_step() const;
  std::vector<Trainable> own_trainables() const;
  void share_updated_weights();

  Model& student_;
  const Model* teacher_;
  GkdOptions options_;
  GkdPart part_;
  Context& ctx_;
  std::unique_ptr<Arena> state_, work_;
  Slice tensors_;                      // of the part in named_tensors(student)
  size_t tensor_count_;                // of the student
  std::vector<double> numbers_;        // of a step: losses, and norms of the gradients of all tensors
  std::vector<Trainable> trainables_;  // one a tensor of the part; then a tied head, which is no tensor of its own
  std::vector<int64_t> owners_;        // of the same: the replica that updates it
  Tensor gradients_;                   // (1, elements) f32: all of the shard at work
  std::vector<Tensor> tree_sums_;      // [level]: the same, added over 2^level shards that wait for as many more
  Tensor embedding_grad_, final_norm_grad_, head_grad_;
  std::vector<SubblockGrads> subblock_grads_;  // two a block
  BlockActivations activations_;
  std::vector<InFlight> in_flight_;
  Tensor stream_;  // (N, H) of the student where activations are not kept
  Tensor rstd_, hidden_, teacher_final_;
  Tensor dx_, token_loss_, token_kl_;
  int64_t steps_done_ = 0;
};

}  // namespace tangram
