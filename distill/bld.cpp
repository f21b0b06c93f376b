#include "distill/bld.h"

namespace tangram {

BldTrainer::BldTrainer(const Model& teacher, std::vector<Replacement> replacements, const BldOptions& options,
                       const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx)
    : teacher_(teacher),
      replacements_(std::move(replacements)),
      options_(options),
      ctx_(ctx),
      losses_(replacements_.size(), 0.0f) {
  Arena state_plan = Arena::planner(ctx.device), work_plan = Arena::planner(ctx.device);
  std::vector<BldLayer> planned = lay_out(state_plan);
  Context planning({.device = ctx.device, .threads = ctx.threads, .planning = true});
  const Batch blank = blank_batch(options.batch_tokens, 1);  // nothing takes more memory than many sequences
  run_step(planned, std::vector<Batch>(static_cast<size_t>(options.micro_batches), blank), work_plan, planning);
  state_ = std::make_unique<Arena>(state_plan.used_bytes(), ctx.device);
  work_ = std::make_unique<Arena>(work_plan.peak_bytes(), ctx.device);
  layers_ = lay_out(*state_);
  for (BldLayer& layer : layers_)
    layer.initialise(teacher_.blocks[static_cast<size_t>(layer.index())], statistics(layer.index()), ctx);
}

int64_t BldTrainer::memory_bytes() const { return state_->capacity_bytes() + work_->capacity_bytes(); }

std::vector<BldLayer> BldTrainer::lay_out(Arena& state) const {
  std::vector<BldLayer> layers;
  for (int64_t l = 0; l < teacher_.config.num_hidden_layers; ++l)
    layers.emplace_back(l, replacements_, teacher_.config, teacher_.dtype, options_, state);
  return layers;
}

void BldTrainer::step(std::span<const Batch> micro_batches) {
  CHECK(static_cast<int64_t>(micro_batches.size()) == options_.micro_batches, "{} micro-batches of {}",
        micro_batches.size(), options_.micro_batches);
  run_step(layers_, micro_batches, *work_, ctx_);
  ++steps_done_;
}

void BldTrainer::run_step(std::vector<BldLayer>& layers, std::span<const Batch> micro_batches, Arena& work,
                          Context& ctx) {
  const ModelConfig& config = teacher_.config;
  const int64_t N = options_.batch_tokens;
  const ArenaScope scope(work);
  std::vector<SequenceBatch> batches;
  std::vector<Sequences> sequences;
  std::vector<Tensor> residual;  // of each micro-batch, at the boundary before the layer
  batches.reserve(micro_batches.size());
  for (const Batch& batch : micro_batches) {
    CHECK(static_cast<int64_t>(batch.tokens.size()) == N, "a batch of {} tokens, not {}", batch.tokens.size(), N);
    sequences.push_back(batches.emplace_back(config, batch.lengths, std::span<const int32_t>{}, work, ctx).view());
    residual.push_back(work.tensor(N, config.hidden_size, teacher_.dtype));
    embed(residual.back(), teacher_, batch.tokens, ctx);
  }
  for (BldLayer& layer : layers) {
    const ArenaScope of_layer(work);
    layer.begin_step(work, ctx);
    for (size_t m = 0; m < residual.size(); ++m)
      layer.train(residual[m], sequences[m], teacher_.blocks[static_cast<size_t>(layer.index())], work, ctx);
    layer.end_step(losses_, steps_done_, ctx);
  }
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
  const auto layer = static_cast<size_t>(r.first_layer);
  return layers_[layer].entry(r, index, teacher_.blocks[layer], ctx_);
}

}  // namespace tangram
