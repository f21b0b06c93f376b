#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "blocks/library.h"
#include "distill/dataset.h"
#include "distill/statistics.h"
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
  uint64_t seed = 0;          ///< of Init::random
};

/// Blockwise local distillation (Bercovich et al. 2024, arXiv:2411.19146, section 3): every replacement of every layer
/// is trained from one teacher forward pass a batch. A variant gets the teacher's own input to its subblock; no
/// gradient crosses subblocks. The variants of a subblock share one wide product with their common input, forward and
/// backward. A pair (both subblocks named) learns the teacher's block output from the block's input.
///
/// All memory is taken at construction, from one arena for what lives and one for what a layer needs while it is at
/// work.
class BldTrainer {
 public:
  /// `replacements` are those with something to train: no lone `no_op`, no copy of the teacher's own subblock.
  /// The weights start from `statistics(layer)`.
  BldTrainer(const Model& teacher, std::vector<Replacement> replacements, const BldOptions& options,
             const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx);
  ~BldTrainer();

  /// One optimiser step on `micro_batches` batches; afterwards `losses` are of this step, before the update. Throws
  /// Error naming the replacement whose loss is not finite.
  void step(std::span<const Batch> micro_batches);

  int64_t steps_done() const { return steps_done_; }
  const std::vector<Replacement>& replacements() const { return replacements_; }
  std::span<const float> losses() const { return losses_; }  ///< one a replacement
  int64_t memory_bytes() const;

  /// Everything that the next step depends on, as views that a checkpoint reads and writes.
  std::vector<NamedTensor> state() const;
  /// Goes on, bit for bit, after `steps_done` steps with what was written to `state()`.
  void resume(int64_t steps_done);

  /// The weights of one replacement, for the library.
  LibraryEntry entry(size_t index) const;

 private:
  struct Student;  // one plain variant of a subblock
  struct Group;    // all of a subblock's students, with their common input weight
  struct Pair;     // a replacement of both subblocks
  struct Layer;    // all students of one teacher layer

  void lay_out(Arena& state);
  void lay_out_group(Group& group, Arena& state);
  void lay_out_pair(Pair& pair, Arena& state);
  int64_t plan_work();
  void start_layer(Layer& layer, Arena& work);
  void initialise(Layer& layer, const LayerStatistics& statistics);
  void train_group(const Group& group, const TeacherLayer& teacher, const BlockWeights& teacher_weights,
                   const Sequences& sequences, bool first_micro_batch);
  float student_loss(Tensor y, const Group& group, const TeacherLayer& teacher, const BlockWeights& teacher_weights,
                     const Sequences& sequences, Tensor target_sum_squares);
  void train_pair(Pair& pair, const TeacherLayer& teacher, const Sequences& sequences);
  void update(Layer& layer);

  const Model& teacher_;
  std::vector<Replacement> replacements_;
  BldOptions options_;
  Context& ctx_;
  std::vector<Layer> layers_;
  std::unique_ptr<Arena> state_, work_;
  std::vector<float> losses_;
  int64_t steps_done_ = 0;
};

}  // namespace tangram
