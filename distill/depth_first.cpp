#include "distill/depth_first.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "distill/checkpoint_folder.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

/// One step of a layer's students, without the update. `take(d)` gives the memory for the next micro-batch before the
/// layer d layers back, with the residual stream in it but for that before layer 0; `give_back` gets them all, that of
/// the layer itself with its output in it.
template <class Take, class GiveBack>
void run_step(BldLayer& students, const TeacherSource& teacher, const BlockWeights& block,
              std::span<const Batch> micro_batches, Take take, GiveBack give_back, Arena& work, Context& ctx) {
  students.begin_step(work, work);
  for (const Batch& batch : micro_batches) {
    const ArenaScope of_batch(work);
    std::vector<Tensor> streams;
    for (int64_t d = 0; d <= students.reach(); ++d) {
      streams.emplace_back();
      if (d > 0 && !students.reaches(d)) continue;
      streams.back() = take(d);
      if (d == students.index()) teacher.embed(streams.back(), batch.tokens, ctx);
    }
    const SequenceBatch sequences(teacher.config, batch.lengths, {}, work, ctx);
    students.train(streams[0], std::span(streams).subspan(1), sequences.view(), block, work, ctx);
    synchronize(ctx);
    give_back();
  }
}

std::vector<size_t> places_of(std::span<const Replacement> replacements) {
  std::vector<size_t> places(replacements.size());
  std::iota(places.begin(), places.end(), size_t{0});
  return places;
}

}  // namespace

DepthFirstLayer::DepthFirstLayer(const DepthFirstRun& run, int64_t layer, bool trained, Context& ctx)
    : run_(run), layer_(layer), ctx_(ctx) {
  if (trained) replacements_ = run.replacements;
  for (const size_t place : places_of(replacements_))
    if (replacements_[place].last_layer() == layer) places_.push_back(place);
  losses_.resize(replacements_.size());
  DepthFirstRun own = run;
  own.replacements = replacements_;
  const BldPlan needs = plan(own, layer, blank_batch(run.options.batch_tokens, 1), ctx.device, ctx.threads);
  state_ = std::make_unique<Arena>(needs.state_bytes, ctx.device);
  work_ = std::make_unique<Arena>(needs.work_bytes, ctx.device);
  students_ = std::make_unique<BldLayer>(layer, replacements_, places_, run.teacher.config, run.teacher.dtype,
                                         run.options, alone_, *state_);
}

BldPlan DepthFirstLayer::plan(const DepthFirstRun& run, int64_t layer, const Batch& batch, Device device, int threads) {
  const TeacherSource teacher = planned_teacher(run.teacher.config, run.teacher.dtype, device);
  Arena state = Arena::planner(device), work = Arena::planner(device), stream = Arena::planner(device);
  Context planning({.device = device, .threads = threads, .planning = true});
  Replicas alone;
  BldLayer students(layer, run.replacements, places_of(run.replacements), teacher.config, teacher.dtype, run.options,
                    alone, state);
  const std::vector<Batch> batches(static_cast<size_t>(run.options.micro_batches), batch);
  const auto take = [&](int64_t) {
    return stream.tensor(run.options.batch_tokens, teacher.config.hidden_size, teacher.dtype);
  };
  run_step(
      students, teacher, teacher.layer(layer, planning), batches, take, [] {}, work, planning);
  std::vector<float> losses(run.replacements.size());
  students.end_step(losses, 0, planning);
  BldPlan plan{.state_bytes = state.used_bytes(),
               .work_bytes = work.peak_bytes(),
               .scratch_bytes = planning.scratch.peak_bytes(),
               .matmul_flops = planning.matmul_flops,
               .attention_flops = planning.attention_flops};
  students.add_to(plan);
  return plan;
}

void DepthFirstLayer::open(int64_t steps_done) {
  std::filesystem::path to = boundary_path(run_.boundaries, layer_ + 1);
  const bool is_last = layer_ + 1 == run_.teacher.config.num_hidden_layers;
  // Also where a checkpoint before the last step has to serve: the boundary has all batches.
  const bool is_finished = steps_done > 0 && std::filesystem::exists(to);
  if (is_last || is_finished) to.clear();
  for (int64_t d = 0; d <= students_->reach(); ++d) {
    streams_.emplace_back();
    if (d > 0 && !students_->reaches(d)) continue;
    const std::filesystem::path from = layer_ > d ? boundary_path(run_.boundaries, layer_ - d) : "";
    streams_.back() = std::make_unique<BoundaryStream>(from, d == 0 ? to : "", run_.boundary(),
                                                       steps_done * run_.options.micro_batches, ctx_);
  }
  steps_done_ = steps_done;
}

void DepthFirstLayer::start(const LayerStatistics& statistics) {
  students_->initialise(run_.teacher.layer(layer_, ctx_), statistics, ctx_);
  open(0);
}

void DepthFirstLayer::start() { open(0); }

void DepthFirstLayer::resume(int64_t steps_done) {
  students_->resume(ctx_);
  open(steps_done);
}

void DepthFirstLayer::step(std::span<const Batch> micro_batches) {
  check_micro_batches(micro_batches, run_.options);
  const ArenaScope scope(*work_);
  run_step(
      *students_, run_.teacher, run_.teacher.layer(layer_, ctx_), micro_batches,
      [&](int64_t d) { return streams_[size_t(d)]->take(); },
      [&] {
        for (const auto& stream : streams_)
          if (stream) stream->give_back();
      },
      *work_, ctx_);
  students_->end_step(losses_, steps_done_++, ctx_);
}

void DepthFirstLayer::flush() { streams_[0]->flush(); }
void DepthFirstLayer::finish() { streams_[0]->finish(); }

IoTimes DepthFirstLayer::io_times() const {
  IoTimes times;
  for (const auto& stream : streams_)
    if (stream) times += stream->times();
  return times;
}

std::vector<float> DepthFirstLayer::losses() const {
  std::vector<float> own;
  for (const size_t place : places_) own.push_back(losses_[place]);
  return own;
}

std::vector<NamedTensor> DepthFirstLayer::state() const {
  std::vector<NamedTensor> tensors;
  students_->append_state(tensors);
  return tensors;
}

LibraryEntry DepthFirstLayer::entry(size_t place) const {
  return students_->entry(run_.replacements[place], place, run_.teacher.layer(layer_, ctx_), ctx_);
}

int64_t longest_reach(std::span<const Replacement> replacements) {
  int64_t reach = 0;
  for (const Replacement& r : replacements) reach = std::max(reach, r.layer_count - 1);
  return reach;
}

int64_t streams_read(std::span<const Replacement> replacements) {
  std::set<int64_t> layer_counts{1};
  for (const Replacement& r : replacements) layer_counts.insert(r.layer_count);
  return std::ssize(layer_counts);
}

int64_t boundaries_at_once(const DepthFirstRun& run) {
  return std::clamp<int64_t>(run.teacher.config.num_hidden_layers - 1, 0, 2 + longest_reach(run.replacements));
}

int64_t depth_first_disk_bytes(const DepthFirstRun& run, const BldPlan& plan) {
  return boundaries_at_once(run) * run.boundary().bytes() + kMostCheckpoints * plan.checkpoint_bytes();
}

}  // namespace tangram
