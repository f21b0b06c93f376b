#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "distill/bld_layer.h"
#include "distill/teacher_source.h"

namespace tangram {

/// Blockwise local distillation (Bercovich et al. 2024, arXiv:2411.19146, section 3), breadth first: every replacement
/// of every layer is trained from one teacher forward pass a batch. See BldLayer for what one layer does.
///
/// All memory is taken at construction, from one arena for what lives and one for what a step needs while it is at
/// work.
class BldTrainer {
 public:
  /// `replacements` are those with something to train: no lone `no_op`, no copy of the teacher's own subblock.
  /// The weights start from `statistics(layer)`.
  BldTrainer(const Model& teacher, std::vector<Replacement> replacements, const BldOptions& options,
             const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx);

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

  /// What a trainer takes beside the teacher's weights, and a step computes; `batch` is a typical micro-batch.
  static BldPlan plan(const TeacherSource& teacher, std::span<const Replacement> replacements,
                      const BldOptions& options, const Batch& batch, Device device, int threads);

 private:
  TeacherSource teacher_;
  std::vector<Replacement> replacements_;
  BldOptions options_;
  Context& ctx_;
  std::unique_ptr<Arena> state_, work_;
  std::vector<BldLayer> layers_;
  std::vector<float> losses_;
  int64_t steps_done_ = 0;
};

}  // namespace tangram
