#include "distill/bld.h"

#include <algorithm>

#include "kernels/elementwise.h"

namespace tangram {
namespace {

std::vector<BldLayer> lay_out(const TeacherSource& teacher, std::span<const Replacement> replacements,
                              const BldOptions& options, Arena& state) {
  std::vector<BldLayer> layers;
  for (int64_t l = 0; l < teacher.config.num_hidden_layers; ++l)
    layers.emplace_back(l, replacements, teacher.config, teacher.dtype, options, state);
  return layers;
}

/// Residual streams of one micro-batch before the current layer and those before it, for spans, whose input lies back.
class StreamHistory {
 public:
  StreamHistory(int64_t reach, Tensor like, Arena& work) {
    for (int64_t d = 0; reach > 0 && d <= reach; ++d) streams_.push_back(work.tensor(like.rows, like.cols, like.dtype));
  }
  /// `residual` is the stream before the next layer.
  void add(Tensor residual, Context& ctx) {
    if (streams_.empty()) return;
    std::rotate(streams_.begin(), streams_.end() - 1, streams_.end());
    copy(streams_[0], residual, ctx);
  }
  /// [d]: before the layer d + 1 layers before the one that was added last.
  std::span<const Tensor> earlier() const { return std::span(streams_).subspan(streams_.empty() ? 0 : 1); }

 private:
  std::vector<Tensor> streams_;
};

void run_step(std::span<BldLayer> layers, const TeacherSource& teacher, std::span<const Batch> micro_batches,
              int64_t steps_done, std::span<float> losses, Arena& work, Context& ctx) {
  const ArenaScope scope(work);
  std::vector<SequenceBatch> batches;
  std::vector<Tensor> residual;  // of each micro-batch, at the boundary before the layer
  batches.reserve(micro_batches.size());
  for (const Batch& batch : micro_batches) {
    batches.emplace_back(teacher.config, batch.lengths, std::span<const int32_t>{}, work, ctx);
    residual.push_back(work.tensor(std::ssize(batch.tokens), teacher.config.hidden_size, teacher.dtype));
    teacher.embed(residual.back(), batch.tokens, ctx);
  }
  int64_t reach = 0;
  for (const BldLayer& layer : layers) reach = std::max(reach, layer.reach());
  std::vector<StreamHistory> histories;
  for (const Tensor& x : residual) histories.emplace_back(reach, x, work);
  for (BldLayer& layer : layers) {
    const ArenaScope of_layer(work);
    layer.begin_step(work, ctx);
    for (size_t m = 0; m < residual.size(); ++m) {
      histories[m].add(residual[m], ctx);
      layer.train(residual[m], histories[m].earlier(), batches[m].view(), teacher.layer(layer.index(), ctx), work, ctx);
    }
    layer.end_step(losses, steps_done, ctx);
  }
}

}  // namespace

BldTrainer::BldTrainer(const Model& teacher, std::vector<Replacement> replacements, const BldOptions& options,
                       const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx)
    : teacher_(teacher_in_memory(teacher)),
      replacements_(std::move(replacements)),
      options_(options),
      ctx_(ctx),
      losses_(replacements_.size(), 0.0f) {
  const Batch many_sequences = blank_batch(options.batch_tokens, 1);  // nothing takes more memory
  const BldPlan needs = plan(teacher_, replacements_, options, many_sequences, ctx.device, ctx.threads);
  state_ = std::make_unique<Arena>(needs.state_bytes, ctx.device);
  work_ = std::make_unique<Arena>(needs.work_bytes, ctx.device);
  layers_ = lay_out(teacher_, replacements_, options_, *state_);
  for (BldLayer& layer : layers_) layer.initialise(teacher_.layer(layer.index(), ctx), statistics(layer.index()), ctx);
}

BldPlan BldTrainer::plan(const TeacherSource& shape, std::span<const Replacement> replacements,
                         const BldOptions& options, const Batch& batch, Device device, int threads) {
  const TeacherSource teacher = planned_teacher(shape.config, shape.dtype, device);
  Arena state = Arena::planner(device), work = Arena::planner(device);
  Context planning({.device = device, .threads = threads, .planning = true});
  std::vector<BldLayer> layers = lay_out(teacher, replacements, options, state);
  std::vector<float> losses(replacements.size());
  run_step(layers, teacher, std::vector<Batch>(static_cast<size_t>(options.micro_batches), batch), 0, losses, work,
           planning);
  BldPlan plan{.state_bytes = state.used_bytes(),
               .work_bytes = work.peak_bytes(),
               .scratch_bytes = planning.scratch.peak_bytes(),
               .matmul_flops = planning.matmul_flops,
               .attention_flops = planning.attention_flops};
  for (const BldLayer& layer : layers) layer.add_to(plan);
  return plan;
}

int64_t BldTrainer::memory_bytes() const { return state_->capacity_bytes() + work_->capacity_bytes(); }

void BldTrainer::step(std::span<const Batch> micro_batches) {
  check_micro_batches(micro_batches, options_);
  run_step(layers_, teacher_, micro_batches, steps_done_, losses_, *work_, ctx_);
  ++steps_done_;
}

std::vector<NamedTensor> BldTrainer::state() const {
  std::vector<NamedTensor> tensors;
  for (const BldLayer& layer : layers_) layer.append_state(tensors);
  return tensors;
}

void BldTrainer::resume(int64_t steps_done) {
  for (BldLayer& layer : layers_) layer.resume(ctx_);
  steps_done_ = steps_done;
}

LibraryEntry BldTrainer::entry(size_t index) const {
  const Replacement& r = replacements_[index];
  return layers_[static_cast<size_t>(r.last_layer())].entry(r, index, teacher_.layer(r.last_layer(), ctx_), ctx_);
}

}  // namespace tangram
