#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "distill/bld_layer.h"
#include "distill/stage_link.h"
#include "distill/teacher_source.h"

namespace tangram {

/// What one process does of blockwise distillation: some of the replacements, from the teacher's layers [begin, end).
struct BldPart {
  std::vector<size_t> places;  ///< of its replacements in the list of all
  int64_t begin = 0, end = 0;
  int64_t next_begin = -1;                 ///< the layer before which the next process begins, in [begin, end]
  Communicator* world = nullptr;           ///< that has the processes before and after it
  int previous_rank = -1, next_rank = -1;  ///< < 0: there is none, and it begins at layer 0, or nothing is passed on
  Replicas replicas = {};                  ///< that do the same on other micro-batches
};

/// All replacements, on every layer.
BldPart whole_bld(std::span<const Replacement> replacements, const ModelConfig& config);

/// Blockwise local distillation (Bercovich et al. 2024, arXiv:2411.19146, section 3), breadth first: every replacement
/// of every layer is trained from one teacher forward pass a batch. See BldLayer for what one layer does.
///
/// All memory is taken at construction, from one arena for what lives and one for what a step needs while it is at
/// work.
///
/// Several processes share the work, each with a part: students end with the same bits, however it is cut. A replica
/// trains on its own micro-batches, those with the numbers [index, index + 1) * micro_batches / count of each step.
class BldTrainer {
 public:
  /// `replacements` are those with something to train: no lone `no_op`, no copy of the teacher's own subblock.
  /// The weights start from `statistics(layer)`. Of the teacher only the part's layers are asked for, and the embedding
  /// where it begins at layer 0.
  BldTrainer(TeacherSource teacher, std::vector<Replacement> replacements, const BldOptions& options, BldPart part,
             const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx);
  /// All of it in one process.
  BldTrainer(const Model& teacher, std::vector<Replacement> replacements, const BldOptions& options,
             const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx);

  /// One optimiser step on the replica's batches; afterwards `losses` are of this step, before the update. `is_last`:
  /// there is no step after it in this process. Throws Error naming the replacement whose loss is not finite.
  void step(std::span<const Batch> micro_batches, bool is_last = false);

  int64_t steps_done() const { return steps_done_; }
  const std::vector<Replacement>& replacements() const { return replacements_; }
  /// One a replacement; 0 for those of other parts.
  std::span<const float> losses() const { return losses_; }
  int64_t memory_bytes() const;

  /// Everything that the next step depends on, as views that a checkpoint reads and writes.
  std::vector<NamedTensor> state() const;
  /// Goes on, bit for bit, after `steps_done` steps with what was written to `state()`.
  void resume(int64_t steps_done);

  /// Whether this process has the replacement and, of its replicas, is the one that owns it.
  bool owns(size_t place) const;
  /// The weights of one of its replacements, for the library.
  LibraryEntry entry(size_t place) const;

  /// What a trainer takes beside the teacher's weights, and a step computes; `batch` is a typical micro-batch.
  static BldPlan plan(const TeacherSource& teacher, std::span<const Replacement> replacements,
                      const BldOptions& options, const BldPart& part, const Batch& batch, Device device, int threads);

 private:
  struct Memory {
    Arena state, work, gradients[2];
  };
  BldTrainer(TeacherSource teacher, std::vector<Replacement> replacements, const BldOptions& options, BldPart part,
             Memory memory, Context& ctx);
  const BldLayer& layer_of(size_t place) const;
  std::vector<Tensor> start_streams(std::span<const Batch> micro_batches, bool is_last);
  void run_step(std::span<const Batch> micro_batches, bool is_last);

  TeacherSource teacher_;
  std::vector<Replacement> replacements_;
  BldOptions options_;
  std::unique_ptr<BldPart> part_;  // where layers keep pointing
  Context& ctx_;
  std::unique_ptr<Memory> memory_;
  std::vector<BldLayer> layers_;
  StageLink link_;
  std::unique_ptr<Context> exchange_;  // in which a layer's step ends while the next layer trains
  std::vector<float> losses_;
  int64_t steps_done_ = 0;
};

}  // namespace tangram
