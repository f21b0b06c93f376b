#pragma once
#include <memory>

#include "distill/bld_layer.h"
#include "distill/boundary_stream.h"
#include "distill/dataset.h"
#include "distill/teacher_source.h"

namespace tangram {

/// Blockwise local distillation depth first: all steps of one layer before the first of the next, for teachers that do
/// not fit in memory. A layer's input, the residual stream of all tokens, is what the layer before it has written to
/// disk; the inputs of spans, what layers farther back have written. Students end with the same bits as in BldTrainer,
/// which gives every layer the same batches in the same order.
struct DepthFirstRun {
  TeacherSource teacher;
  std::vector<Replacement> replacements;  ///< of all layers, as for BldTrainer
  BldOptions options;
  int64_t steps = 0;
  std::filesystem::path boundaries;  ///< folder of the boundary files

  BoundaryShape boundary() const {
    return {steps * options.micro_batches, options.batch_tokens, teacher.config.hidden_size, teacher.dtype};
  }
};

/// One layer of such a run. Memory is taken at construction.
class DepthFirstLayer {
 public:
  /// Trains the replacements that end with the layer. A layer that is not `trained` only carries the residual stream
  /// on, to the boundary behind it.
  DepthFirstLayer(const DepthFirstRun& run, int64_t layer, bool trained, Context& ctx);

  /// Begins with the first step.
  void start(const LayerStatistics& statistics);
  void start();  ///< of a layer that is not trained
  /// Goes on, bit for bit, after `steps_done` steps with what was written to `state()`; `flush` was called before.
  void resume(int64_t steps_done);
  /// One optimiser step. Throws Error naming the replacement whose loss is not finite.
  void step(std::span<const Batch> micro_batches);
  /// Waits until the boundary behind the layer is on disk as far as it has been computed.
  void flush();
  /// After the last step: the boundary behind the layer stands under its name.
  void finish();

  const std::vector<size_t>& places() const { return places_; }  ///< of its replacements in the list
  std::vector<float> losses() const;  ///< of the last step, before the update, for each place
  std::vector<NamedTensor> state() const;
  LibraryEntry entry(size_t place) const;
  IoTimes io_times() const;
  int64_t reach() const { return students_->reach(); }

  /// What a layer takes, without the teacher's weights and the boundaries' batches; `batch` is a typical one.
  static BldPlan plan(const DepthFirstRun& run, int64_t layer, const Batch& batch, Device device, int threads);

 private:
  void open(int64_t steps_done);

  const DepthFirstRun& run_;
  const int64_t layer_;
  Context& ctx_;
  std::vector<Replacement> replacements_;  // none if the layer is not trained
  std::vector<size_t> places_;
  std::unique_ptr<Arena> state_, work_;
  Replicas alone_;
  std::unique_ptr<BldLayer> students_;
  std::vector<std::unique_ptr<BoundaryStream>> streams_;  // [d]: from the boundary before layer_ - d; null: not needed
  std::vector<float> losses_;
  int64_t steps_done_ = 0;
};

/// The most layers that the input of any replacement lies before its last: so many boundaries before a layer's own are
/// kept while the layer is at work.
int64_t longest_reach(std::span<const Replacement> replacements);
/// Residual streams that a layer reads at one time: its own input, and one for every number of layers that spans have.
int64_t streams_read(std::span<const Replacement> replacements);
/// Boundaries that are on disk at most at one time: those that a layer reads and the one it writes.
int64_t boundaries_at_once(const DepthFirstRun& run);

/// Bytes of disk that such a run needs at one time beside the library: its boundaries, and a layer's checkpoints.
int64_t depth_first_disk_bytes(const DepthFirstRun& run, const BldPlan& plan);

}  // namespace tangram
