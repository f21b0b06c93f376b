#include "distill/bld.h"

#include <algorithm>
#include <bit>
#include <future>
#include <numeric>

#include "kernels/elementwise.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

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

}  // namespace

BldPart whole_bld(std::span<const Replacement> replacements, const ModelConfig& config) {
  BldPart part{.places = std::vector<size_t>(replacements.size()), .end = config.num_hidden_layers};
  std::iota(part.places.begin(), part.places.end(), size_t{0});
  return part;
}

BldTrainer::BldTrainer(TeacherSource teacher, std::vector<Replacement> replacements, const BldOptions& options,
                       BldPart part, Memory memory, Context& ctx)
    : teacher_(std::move(teacher)),
      replacements_(std::move(replacements)),
      options_(options),
      part_(std::make_unique<BldPart>(std::move(part))),
      ctx_(ctx),
      memory_(std::make_unique<Memory>(std::move(memory))),
      link_(part_->world, part_->previous_rank, part_->next_rank, options.micro_batches / part_->replicas.count,
            {.rows = options.batch_tokens, .cols = teacher_.config.hidden_size, .dtype = teacher_.dtype},
            memory_->state),
      losses_(replacements_.size(), 0.0f) {
  CHECK(std::has_single_bit(uint64_t(options.shards)) && options.shards % part_->replicas.count == 0 &&
            options.micro_batches % options.shards == 0,
        "{} micro-batches in {} shards on {} replicas", options.micro_batches, options.shards, part_->replicas.count);
  for (int64_t l = part_->begin; l < part_->end; ++l)
    layers_.emplace_back(l, replacements_, part_->places, teacher_.config, teacher_.dtype, options_, part_->replicas,
                         memory_->state);
  if (part_->replicas.count == 1 || ctx.planning()) return;
  exchange_ = std::make_unique<Context>(Context::Options{.device = ctx.device, .threads = ctx.threads});
  if (ctx.device == Device::cuda) part_->replicas.group->attach(*exchange_);
}

BldTrainer::BldTrainer(TeacherSource teacher, std::vector<Replacement> replacements, const BldOptions& options,
                       BldPart part, const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx)
    : BldTrainer(
          teacher, replacements, options, part,
          [&] {
            const Batch many_sequences = blank_batch(options.batch_tokens, 1);  // nothing takes more memory
            const BldPlan needs = plan(teacher, replacements, options, part, many_sequences, ctx.device, ctx.threads);
            const auto gradients = [&](size_t i) { return Arena(needs.gradient_arena_bytes[i], ctx.device); };
            return Memory{Arena(needs.state_bytes, ctx.device),
                          Arena(needs.work_bytes, ctx.device),
                          {gradients(0), gradients(1)}};
          }(),
          ctx) {
  for (BldLayer& layer : layers_)
    if (layer.has_students()) layer.initialise(teacher_.layer(layer.index(), ctx), statistics(layer.index()), ctx);
}

BldTrainer::BldTrainer(const Model& teacher, std::vector<Replacement> replacements, const BldOptions& options,
                       const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx)
    : BldTrainer(teacher_in_memory(teacher), replacements, options, whole_bld(replacements, teacher.config), statistics,
                 ctx) {}

BldPlan BldTrainer::plan(const TeacherSource& shape, std::span<const Replacement> replacements,
                         const BldOptions& options, const BldPart& part, const Batch& batch, Device device,
                         int threads) {
  Context planning({.device = device, .threads = threads, .planning = true});
  const auto planner = [&] { return Arena::planner(device); };
  BldPart planned = part;
  planned.world = planned.replicas.group = nullptr;
  BldTrainer trainer(planned_teacher(shape.config, shape.dtype, device), {replacements.begin(), replacements.end()},
                     options, std::move(planned), Memory{planner(), planner(), {planner(), planner()}}, planning);
  trainer.run_step(std::vector<Batch>(static_cast<size_t>(options.micro_batches / part.replicas.count), batch), true);
  const Memory& memory = *trainer.memory_;
  BldPlan plan{.state_bytes = memory.state.used_bytes(),
               .work_bytes = memory.work.peak_bytes(),
               .gradient_arena_bytes = {memory.gradients[0].peak_bytes(), memory.gradients[1].peak_bytes()},
               .scratch_bytes = planning.scratch.peak_bytes(),
               .matmul_flops = planning.matmul_flops,
               .attention_flops = planning.attention_flops};
  for (const BldLayer& layer : trainer.layers_) layer.add_to(plan);
  if (part.replicas.count > 1) plan.gradient_bytes *= 2;
  return plan;
}

int64_t BldTrainer::memory_bytes() const {
  const auto& [state, work, gradients] = *memory_;
  return state.capacity_bytes() + work.capacity_bytes() + gradients[0].capacity_bytes() + gradients[1].capacity_bytes();
}

void BldTrainer::step(std::span<const Batch> micro_batches, bool is_last) {
  check_micro_batches(micro_batches, options_, part_->replicas.count);
  run_step(micro_batches, is_last);
  ++steps_done_;
}

// The residual stream of each micro-batch before the part's first layer.
std::vector<Tensor> BldTrainer::start_streams(std::span<const Batch> micro_batches, bool is_last) {
  std::vector<Tensor> streams;
  for (const Batch& batch : micro_batches) {
    streams.push_back(memory_->work.tensor(std::ssize(batch.tokens), teacher_.config.hidden_size, teacher_.dtype));
    if (!link_.has_previous()) teacher_.embed(streams.back(), batch.tokens, ctx_);
  }
  if (link_.has_previous()) link_.receive(streams, is_last, ctx_);
  return streams;
}

void BldTrainer::run_step(std::span<const Batch> micro_batches, bool is_last) {
  Arena& work = memory_->work;
  const ArenaScope scope(work);
  std::vector<SequenceBatch> batches;
  batches.reserve(micro_batches.size());
  for (const Batch& batch : micro_batches)
    batches.emplace_back(teacher_.config, batch.lengths, std::span<const int32_t>{}, work, ctx_);
  const std::vector<Tensor> streams = start_streams(micro_batches, is_last);
  const auto pass_on = [&](int64_t before_layer, size_t m) {
    if (link_.has_next() && before_layer == part_->next_begin) link_.send(m, streams[m], ctx_);
  };
  int64_t reach = 0;
  for (const BldLayer& layer : layers_) reach = std::max(reach, layer.reach());
  std::vector<StreamHistory> histories;
  for (const Tensor& x : streams) histories.emplace_back(reach, x, work);

  // With several replicas a layer's step ends, in a thread of its own, while the next layer trains: so the exchange of
  // gradients costs no time. Two layers' gradients are then there at once.
  std::future<void> ending;
  const auto wait = [&] {
    if (ending.valid()) ending.get();
  };
  size_t trained = 0;
  for (BldLayer& layer : layers_) {
    Arena& gradients = memory_->gradients[part_->replicas.count > 1 ? trained % 2 : 0];
    gradients.rewind(0);
    const ArenaScope of_layer(work);
    layer.begin_step(gradients, work);
    for (size_t m = 0; m < streams.size(); ++m) {
      pass_on(layer.index(), m);
      histories[m].add(streams[m], ctx_);
      layer.train(streams[m], histories[m].earlier(), batches[m].view(), teacher_.layer(layer.index(), ctx_), work,
                  ctx_);
      if (layer.index() + 1 == part_->end) pass_on(part_->end, m);
    }
    if (!layer.has_students()) continue;
    ++trained;
    if (!exchange_) {
      layer.end_step(losses_, steps_done_, ctx_);
      continue;
    }
    synchronize(ctx_);
    wait();
    ending = std::async(std::launch::async, [this, &layer] {
      layer.end_step(losses_, steps_done_, *exchange_);
      synchronize(*exchange_);
    });
  }
  wait();
  if (is_last) link_.finish();
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

const BldLayer& BldTrainer::layer_of(size_t place) const {
  return layers_[static_cast<size_t>(replacements_[place].last_layer() - part_->begin)];
}

bool BldTrainer::owns(size_t place) const {
  const int64_t layer = replacements_[place].last_layer();
  return layer >= part_->begin && layer < part_->end && layer_of(place).owns(place);
}

LibraryEntry BldTrainer::entry(size_t place) const {
  const Replacement& r = replacements_[place];
  return layer_of(place).entry(r, place, teacher_.layer(r.last_layer(), ctx_), ctx_);
}

}  // namespace tangram
