#pragma once
#include "blocks/library.h"
#include "distill/dataset.h"
#include "distill/replicas.h"
#include "distill/statistics.h"
#include "distill/teacher_layer.h"
#include "distill/trainable.h"

namespace tangram {

/// What a variant of one subblock learns to reproduce.
enum class BldTarget : uint8_t {
  subblock,  ///< the teacher's output of that subblock:       ||y - y_t||^2 / ||y_t||^2, without the residual
  block,     ///< the teacher's block, through its frozen rest: ||o - o_t||^2 / ||o_t||^2, with the residual
};

struct BldOptions {
  BldTarget target = BldTarget::subblock;
  Init init = Init::least_squares;
  OptimiserOptions optimiser;
  Schedule schedule;
  int64_t batch_tokens = 0;   ///< of one micro-batch
  int64_t micro_batches = 1;  ///< whose gradients are averaged for one step
  int64_t shards = 1;         ///< a power of two: so many equal runs of micro-batches, added up as a balanced tree
  uint64_t seed = 0;          ///< of Init::random
};

/// What training takes, found by laying it out and running a step without computing.
struct BldPlan {
  int64_t weight_bytes = 0, master_bytes = 0, moment_bytes = 0;  ///< of the students
  int64_t gradient_bytes = 0;  ///< of the layer with most, those that sums over shards need beside them too
  int64_t state_bytes = 0;     ///< all that lives from step to step: weights, masters (where not the weights), moments
  int64_t work_bytes = 0;      ///< at most at any time inside a step: activations, and what else is not below
  int64_t gradient_arena_bytes[2] = {0, 0};      ///< of layers in turn; the second one with several replicas only
  int64_t scratch_bytes = 0;                     ///< at most of any operation
  double matmul_flops = 0, attention_flops = 0;  ///< of a step

  int64_t memory_bytes() const { return state_bytes + work_bytes + gradient_arena_bytes[0] + gradient_arena_bytes[1]; }
  /// Of masters and moments; the weights are the masters where those take no memory of their own.
  int64_t checkpoint_bytes() const { return moment_bytes + (master_bytes > 0 ? master_bytes : weight_bytes); }
};

/// Throws Error unless these are a process's micro-batches of one step, of `replicas` that share them.
void check_micro_batches(std::span<const Batch> micro_batches, const BldOptions& options, int64_t replicas = 1);

/// All students that end with one teacher layer in blockwise local distillation. A student gets the teacher's own input
/// to its subblock, and no gradient crosses subblocks. The students of a subblock share one wide product with their
/// common input, forward and backward. A pair (both subblocks named) learns the teacher's block output from the block's
/// input; a span likewise that of its last layer from the input of its first.
///
/// Nothing here depends on another layer: whether all layers take a step before any takes the next, or one layer all
/// its steps before the next layer its first, every student ends with the same bits.
class BldLayer {
 public:
  /// The students are those of `replacements` whose last layer is `layer` and whose place in that list is among
  /// `places`. Weights in `dtype`, and what this replica owns of the optimiser's state in f32, lie in `state`.
  BldLayer(int64_t layer, std::span<const Replacement> replacements, std::span<const size_t> places,
           const ModelConfig& config, DType dtype, const BldOptions& options, Replicas& replicas, Arena& state);

  int64_t index() const { return index_; }
  bool has_students() const { return !trainables_.empty(); }
  /// By how many layers the farthest input lies back: 0 unless there are spans.
  int64_t reach() const;
  /// Whether some span's input lies so many layers back.
  bool reaches(int64_t layers_back) const;

  /// Weights from those of the teacher's block, on the host or on the context's device, and the start of training.
  void initialise(const BlockWeights& teacher, const LayerStatistics& statistics, Context& ctx);

  // One optimiser step: begin_step, train for every micro-batch, end_step. What it needs besides the state lies in
  // `gradients`, from begin_step until end_step has returned, and in `work`, until the last micro-batch is trained on.

  void begin_step(Arena& gradients, Arena& work);
  /// Trains on one micro-batch. `residual` (N, H) is the teacher's residual stream before the layer, and afterwards
  /// behind it; `earlier[d]` is that before the layer d + 1 layers back, there where the layer `reaches` d + 1.
  void train(Tensor residual, std::span<const Tensor> earlier, const Sequences& sequences, const BlockWeights& teacher,
             Arena& work, Context& ctx);
  /// Adds up the gradients of all replicas and updates the weights; step `steps_done` counts from 0. `losses` gets this
  /// layer's losses, before the update, at the places of the replacements. Throws Error naming the student whose loss
  /// or gradient is not finite. May run in a thread and context of its own while the next layer trains.
  void end_step(std::span<float> losses, int64_t steps_done, Context& ctx);

  /// Adds the bytes of weights, masters, moments and gradients.
  void add_to(BldPlan& plan) const;

  /// Appends everything that the next step depends on and this replica owns, as views that a checkpoint reads and
  /// writes.
  void append_state(std::vector<NamedTensor>& tensors) const;
  /// Goes on, bit for bit, from what was written to the state.
  void resume(Context& ctx);

  /// Whether this replica owns the replacement at `place`: it updates it, and writes it to the library.
  bool owns(size_t place) const;
  /// The weights of the replacement at `place` of the list, in the host's memory, for the library; `teacher` is the
  /// layer's block.
  LibraryEntry entry(const Replacement& replacement, size_t place, const BlockWeights& teacher, Context& ctx) const;

 private:
  /// One plain variant of a subblock.
  struct Student {
    size_t number;  // of the layer's students
    SubblockWeights weights;
    int64_t column = 0, columns = 0;  // of the group's wide product
    std::vector<Tensor> grads = {};
  };
  /// All of a subblock's students.
  struct Group {
    Subblock subblock;
    Weight input_weight = {};  // (P, H): the input parameters of all students, one below the other
    Tensor input_grad = {};    // (P, H) f32
    std::vector<Student> students = {};
  };
  /// A replacement of both subblocks, of one layer or several.
  struct Pair {
    size_t number;
    int64_t layers_back;  // from this layer to that of its input
    BlockWeights weights;
    SubblockGrads attention_grads = {}, ffn_grads = {};
  };
  struct MicroBatch;  // what the students look at

  void lay_out(Group& group, Arena& state);
  void lay_out(Pair& pair, Arena& state);
  void lay_out_gradients(Group& group, Arena& gradients);
  void lay_out_gradients(Pair& pair, Arena& gradients);
  void start_shard(Context& ctx);
  void end_shard(Context& ctx);
  void assign_owners(std::span<const Replacement> replacements);
  bool is_own(size_t student) const { return owners_[student] == replicas_.index; }
  std::vector<Trainable> own_trainables() const;
  void train_group(const Group& group, const MicroBatch& batch, Arena& work, Context& ctx) const;
  void train_pair(Pair& pair, const MicroBatch& batch, Arena& work, Context& ctx) const;
  void compare(Tensor y, Tensor loss, const Group& group, Tensor target_sum_squares, const MicroBatch& batch,
               Arena& work, Context& ctx) const;

  int64_t index_;
  ModelConfig config_;
  DType dtype_;
  BldOptions options_;
  Replicas& replicas_;
  Group groups_[2] = {{.subblock = Subblock::attention}, {.subblock = Subblock::ffn}};
  std::vector<Pair> pairs_;
  std::vector<Trainable> trainables_;  // of the students by number: attention's, the FFN's, pairs
  std::vector<size_t> places_;         // of the same
  std::vector<int64_t> owners_;        // of the same: the replica that updates it

  // Of the step at work.
  TeacherLayer teacher_;
  Tensor measured_;                // (micro-batches of all replicas, students) f32: losses
  Tensor gradients_;               // (1, elements) f32: all gradients of the shard at work
  std::vector<Tensor> tree_sums_;  // [level]: the same, added over 2^level shards that wait for as many more
  int64_t micro_batches_done_ = 0;
};

}  // namespace tangram
