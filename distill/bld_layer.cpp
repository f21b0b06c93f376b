#include "distill/bld_layer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "distill/teacher_layer.h"
#include "kernels/elementwise.h"
#include "kernels/mse.h"
#include "kernels/transfer.h"

namespace tangram {

struct BldLayer::MicroBatch {
  const TeacherLayer& teacher;
  std::span<const Tensor> earlier;  // (N, H)  residual stream before the layers that came before
  const BlockWeights& weights;      // the teacher's
  const Sequences& sequences;
  Tensor losses;  // (1, students) f32
  bool is_first;

  Tensor loss(size_t student) const { return losses.col_range(static_cast<int64_t>(student), 1); }
};

namespace {

std::vector<ParamSpec> specs_of(const Choice& choice, const ModelConfig& config) {
  return choice.variant->params({config, choice.size});
}

// Buffers of one group while it is at work: the wide product and its gradient, one student's output and saved tensors.
struct GroupWork {
  Tensor proj, dproj, y;
};

GroupWork make_group_work(const Weight& input_weight, int64_t tokens, Arena& work) {
  const Tensor w = input_weight.values;
  return {work.tensor(tokens, w.rows, w.dtype), work.tensor(tokens, w.rows, w.dtype),
          work.tensor(tokens, w.cols, w.dtype)};
}

std::vector<Tensor> make_saved(const Choice& choice, const ModelConfig& config, int64_t tokens, DType dtype,
                               Arena& work) {
  std::vector<Tensor> saved;
  for (const SavedSpec& s : choice.variant->saved({config, choice.size}))
    saved.push_back(work.tensor(tokens, s.cols, s.f32 ? DType::f32 : dtype));
  return saved;
}

// Gradients of weights that stay as they are: empty tensors, which no backward pass fills.
SubblockGrads frozen_grads(const SubblockWeights& weights) {
  SubblockGrads grads;
  grads.params.resize(weights.params.size());
  return grads;
}

// Weights that the host can read: where they are if that is its memory, else a copy in `memory`.
SubblockWeights on_host(const SubblockWeights& weights, const ModelConfig& config,
                        std::vector<std::shared_ptr<void>>& memory, Context& ctx) {
  if (weights.choice.variant->no_op || weights.norm.device == Device::cpu) return weights;
  Context planning({.planning = true});
  Arena planner = Arena::planner();
  copy_weights(weights, config, planner, planning);
  const auto arena = std::make_shared<Arena>(planner.used_bytes());
  memory.push_back(arena);
  return copy_weights(weights, config, *arena, ctx);
}

// Of the gradients of all variants; a replica trains on as many runs of micro-batches as it has shards.
int64_t shards_of(const Replicas& replicas, const BldOptions& options) { return options.shards / replicas.count; }
int64_t micro_batches_of(const Replicas& replicas, const BldOptions& options) {
  return options.micro_batches / replicas.count;
}

int64_t parameter_count_of(const Replacement& r, const ModelConfig& config) {
  int64_t count = 0;
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    if (r.of(s)) count += parameter_count(*r.of(s), config);
  return count;
}

}  // namespace

void check_micro_batches(std::span<const Batch> micro_batches, const BldOptions& options, int64_t replicas) {
  CHECK(std::ssize(micro_batches) * replicas == options.micro_batches, "{} micro-batches for each of {} replicas of {}",
        micro_batches.size(), replicas, options.micro_batches);
  for (const Batch& batch : micro_batches)
    CHECK(std::ssize(batch.tokens) == options.batch_tokens, "a batch of {} tokens, not {}", batch.tokens.size(),
          options.batch_tokens);
}

BldLayer::BldLayer(int64_t layer, std::span<const Replacement> replacements, std::span<const size_t> places,
                   const ModelConfig& config, DType dtype, const BldOptions& options, Replicas& replicas, Arena& state)
    : index_(layer), config_(config), dtype_(dtype), options_(options), replicas_(replicas) {
  const auto unfilled = [](const std::optional<Choice>& choice) {
    return SubblockWeights{.choice = *choice, .norm = {}, .params = {}};
  };
  const auto add_students = [&](auto belongs, auto add) {
    for (const size_t place : places)
      if (const Replacement& r = replacements[place]; r.last_layer() == layer && belongs(r)) {
        CHECK(r.layer_count == 1 || (r.attention && r.ffn), "{} of layers {} is no whole block", r.name(), r.layers());
        places_.push_back(place);
        trainables_.push_back({.name = fmt::format("{}.{}", r.layers(), r.name()), .tensors = {}});
        add(r, trainables_.size() - 1);
      }
  };
  const auto is_pair = [](const Replacement& r) { return r.attention && r.ffn; };
  for (Group& group : groups_)
    add_students([&](const Replacement& r) { return !is_pair(r) && r.of(group.subblock); },
                 [&](const Replacement& r, size_t number) {
                   group.students.push_back({.number = number, .weights = unfilled(r.of(group.subblock))});
                 });
  add_students(is_pair, [&](const Replacement& r, size_t number) {
    pairs_.push_back(
        {.number = number, .layers_back = r.layer_count - 1, .weights = {unfilled(r.attention), unfilled(r.ffn)}});
  });
  assign_owners(replacements);
  for (Group& group : groups_) lay_out(group, state);
  for (Pair& pair : pairs_) lay_out(pair, state);
}

// The largest first: the others then even out what the replicas own.
void BldLayer::assign_owners(std::span<const Replacement> replacements) {
  std::vector<std::pair<int64_t, size_t>> by_size;
  for (size_t i = 0; i < places_.size(); ++i)
    by_size.emplace_back(-parameter_count_of(replacements[places_[i]], config_), i);
  std::sort(by_size.begin(), by_size.end());
  owners_.resize(places_.size());
  for (const auto& [negative_size, i] : by_size) owners_[i] = replicas_.assign(-negative_size);
}

int64_t BldLayer::reach() const {
  int64_t reach = 0;
  for (const Pair& pair : pairs_) reach = std::max(reach, pair.layers_back);
  return reach;
}

bool BldLayer::reaches(int64_t layers_back) const {
  return std::any_of(pairs_.begin(), pairs_.end(), [&](const Pair& pair) { return pair.layers_back == layers_back; });
}

void BldLayer::lay_out(Group& group, Arena& state) {
  int64_t rows = 0;
  for (Student& s : group.students) {
    s.column = rows, s.columns = projection_size(s.weights.choice, config_);
    rows += s.columns;
  }
  group.input_weight = state.tensor(rows, config_.hidden_size, dtype_);
  for (Student& s : group.students) {
    int64_t row = s.column;
    for (const ParamSpec& p : specs_of(s.weights.choice, config_)) {
      const Tensor weight =
          p.input ? group.input_weight.values.row_range(row, p.rows) : state.tensor(p.rows, p.cols, dtype_);
      if (p.input) row += p.rows;
      s.weights.params.emplace_back(weight);
      trainables_[s.number].tensors.push_back(
          make_trainable(p.name, weight, true, is_own(s.number) ? &state : nullptr));
    }
    s.grads.resize(s.weights.params.size());
  }
}

void BldLayer::lay_out(Pair& pair, Arena& state) {
  std::vector<TrainableTensor>& tensors = trainables_[pair.number].tensors;
  Arena* const own_state = is_own(pair.number) ? &state : nullptr;
  for (const Subblock sub : {Subblock::attention, Subblock::ffn}) {
    SubblockWeights& weights = pair.weights.of(sub);
    weights = make_weights(weights.choice, config_, dtype_, state);
    if (weights.choice.variant->no_op) continue;
    const std::string prefix = std::string(name_of(sub)) + ".";
    tensors.push_back(make_trainable(prefix + "norm", weights.norm, false, own_state));
    const std::vector<ParamSpec> specs = specs_of(weights.choice, config_);
    for (size_t i = 0; i < specs.size(); ++i)
      tensors.push_back(make_trainable(prefix + specs[i].name, weights.params[i].values, true, own_state));
  }
}

// Variants start on the host, whose code reads single weights and solves for them.
void BldLayer::initialise(const BlockWeights& teacher, const LayerStatistics& statistics, Context& ctx) {
  std::optional<Context> own;
  Context& host = ctx.device == Device::cpu ? ctx : own.emplace(Context::Options{.threads = ctx.threads});
  std::vector<std::shared_ptr<void>> memory;
  const BlockWeights block{on_host(teacher.attention, config_, memory, ctx),
                           on_host(teacher.ffn, config_, memory, ctx)};
  const auto start = [&](SubblockWeights& student, Subblock sub, size_t place) {
    const Choice& choice = student.choice;
    if (choice.variant->no_op) return;
    Arena planner = Arena::planner();
    make_weights(choice, config_, dtype_, planner);
    Arena started(planner.used_bytes());
    const SubblockWeights first = make_weights(choice, config_, dtype_, started);
    const InitInputs inputs{options_.init, options_.seed + place, &statistics.of(sub)};
    choice.variant->init_from_teacher(first.params, block.of(sub).params, {config_, choice.size}, inputs, host);
    for (size_t i = 0; i < first.params.size(); ++i) transfer(student.params[i].values, first.params[i].values, ctx);
    if (student.norm.data) transfer(student.norm, block.of(sub).norm, ctx);
  };
  for (Group& group : groups_)
    for (Student& s : group.students) start(s.weights, group.subblock, places_[s.number]);
  for (Pair& pair : pairs_)
    for (const Subblock sub : {Subblock::attention, Subblock::ffn})
      start(pair.weights.of(sub), sub, places_[pair.number]);
  for (const Trainable& trainable : own_trainables()) start_training(trainable, ctx);
}

void BldLayer::lay_out_gradients(Group& group, Arena& gradients) {
  const Tensor wide = group.input_weight.values;
  group.input_grad = gradients.tensor(wide.rows, wide.cols, DType::f32);
  for (Student& s : group.students) {
    const std::vector<ParamSpec> specs = specs_of(s.weights.choice, config_);
    int64_t row = s.column;
    for (size_t i = 0; i < specs.size(); ++i) {
      const ParamSpec& p = specs[i];
      s.grads[i] = p.input ? group.input_grad.row_range(row, p.rows) : gradients.tensor(p.rows, p.cols, DType::f32);
      if (p.input) row += p.rows;
      trainables_[s.number].tensors[i].grad = s.grads[i];
    }
  }
}

void BldLayer::lay_out_gradients(Pair& pair, Arena& gradients) {
  pair.attention_grads = make_grads(pair.weights.attention.choice, config_, gradients);
  pair.ffn_grads = make_grads(pair.weights.ffn.choice, config_, gradients);
  std::vector<TrainableTensor>& tensors = trainables_[pair.number].tensors;
  size_t t = 0;
  for (const SubblockGrads* grads : {&pair.attention_grads, &pair.ffn_grads}) {
    if (!grads->norm.rows) continue;  // a no_op
    tensors[t++].grad = grads->norm;
    for (const Tensor& g : grads->params) tensors[t++].grad = g;
  }
}

void BldLayer::begin_step(Arena& gradients, Arena& work) {
  const void* const start = gradients.tensor(0, 0, DType::f32).data;
  const int64_t mark = gradients.mark();
  for (Group& group : groups_) lay_out_gradients(group, gradients);
  for (Pair& pair : pairs_) lay_out_gradients(pair, gradients);
  const int64_t elements = (gradients.mark() - mark) / size_of(DType::f32);
  gradients_ = {const_cast<void*>(start), 1, elements, elements, DType::f32, gradients.device()};
  tree_sums_.clear();
  for (int64_t waiting = 1; waiting < shards_of(replicas_, options_); waiting *= 2)
    tree_sums_.push_back(gradients.tensor(1, elements, DType::f32));
  measured_ = gradients.tensor(options_.micro_batches, std::ssize(trainables_), DType::f32);
  teacher_ = make_teacher_layer(config_, options_.batch_tokens, dtype_, work);
  micro_batches_done_ = 0;
}

// The wide products write their gradients anew for the first micro-batch of a shard; all others add to theirs.
void BldLayer::start_shard(Context& ctx) {
  for (const Group& group : groups_)
    for (const Student& s : group.students) {
      const std::vector<ParamSpec> specs = specs_of(s.weights.choice, config_);
      for (size_t i = 0; i < specs.size(); ++i)
        if (!specs[i].input) fill_zero(s.grads[i], ctx);
    }
  for (const Pair& pair : pairs_)
    for (const TrainableTensor& tensor : trainables_[pair.number].tensors) fill_zero(tensor.grad, ctx);
}

// The balanced tree of tree_sum, grown from the left: two sums over as many shards are added as soon as both are there.
void BldLayer::end_shard(Context& ctx) {
  const int64_t shards = shards_of(replicas_, options_);
  const int64_t shard = micro_batches_done_ * shards / micro_batches_of(replicas_, options_) - 1;
  size_t level = 0;
  for (; shard >> level & 1; ++level) add(gradients_, tree_sums_[level], gradients_, ctx);
  if (shard + 1 < shards) copy(tree_sums_[level], gradients_, ctx);
}

void BldLayer::train(Tensor residual, std::span<const Tensor> earlier, const Sequences& sequences,
                     const BlockWeights& teacher, Arena& work, Context& ctx) {
  CHECK(std::ssize(earlier) >= reach(), "{} earlier residual streams, {} are needed", earlier.size(), reach());
  copy(teacher_.input, residual, ctx);
  teacher_layer_forward(teacher_, teacher, config_, sequences, ctx);
  const int64_t per_shard = options_.micro_batches / options_.shards;
  const int64_t m = micro_batches_done_++, row = replicas_.index * micro_batches_of(replicas_, options_) + m;
  const bool is_first = m % per_shard == 0;
  const MicroBatch batch{teacher_, earlier, teacher, sequences, measured_.row_range(row, 1), is_first};
  if (is_first) start_shard(ctx);
  for (Group& group : groups_) train_group(group, batch, work, ctx);
  for (Pair& pair : pairs_) train_pair(pair, batch, work, ctx);
  if (micro_batches_done_ % per_shard == 0) end_shard(ctx);
  copy(residual, teacher_.output, ctx);
}

// The loss of one student's output y; leaves the gradient to y in y.
void BldLayer::compare(Tensor y, Tensor loss, const Group& group, Tensor target_sum_squares, const MicroBatch& batch,
                       Arena& work, Context& ctx) const {
  const TeacherLayer& teacher = batch.teacher;
  const float scale = 1.0f / static_cast<float>(options_.micro_batches);
  // The residual stream is the same on both sides, so behind the FFN the difference of blocks is that of subblocks.
  if (options_.target == BldTarget::subblock || group.subblock == Subblock::ffn)
    return normalized_mse(loss, y, y, teacher.output_of(group.subblock), target_sum_squares, scale, ctx);
  const ArenaScope scope(work);
  const Tensor middle = work.tensor(y.rows, y.cols, y.dtype), output = work.tensor(y.rows, y.cols, y.dtype);
  const SubblockWeights& rest = batch.weights.ffn;
  SubblockActivations activations = make_activations(rest.choice, config_, y.rows, y.dtype, work);
  add(middle, teacher.input, y, ctx);
  subblock_forward(output, activations, middle, rest, config_, batch.sequences, ctx);
  add(output, output, middle, ctx);
  normalized_mse(loss, y, output, teacher.output, target_sum_squares, scale, ctx);
  SubblockGrads frozen = frozen_grads(rest);
  subblock_backward(y, frozen, y, middle, activations, rest, config_, batch.sequences, ctx);
}

void BldLayer::train_group(const Group& group, const MicroBatch& batch, Arena& work, Context& ctx) const {
  if (group.students.empty()) return;
  const TeacherLayer& teacher = batch.teacher;
  const Tensor x = teacher.activations(group.subblock).x;
  const Tensor compared = options_.target == BldTarget::block ? teacher.output : teacher.output_of(group.subblock);

  const ArenaScope scope(work);
  const Tensor target_sum_squares = work.tensor(1, 1, DType::f32);
  sum_squares(target_sum_squares, compared, ctx);
  const GroupWork buffers = make_group_work(group.input_weight, x.rows, work);
  matmul_forward(buffers.proj, x, group.input_weight, ctx);
  for (const Student& s : group.students) {
    const ArenaScope of_student(work);
    const Choice& choice = s.weights.choice;
    const std::vector<Tensor> saved = make_saved(choice, config_, x.rows, x.dtype, work);
    const Tensor proj = buffers.proj.col_range(s.column, s.columns),
                 dproj = buffers.dproj.col_range(s.column, s.columns);
    const VariantShape shape{config_, choice.size};
    choice.variant->forward(buffers.y, proj, saved, s.weights.params, shape, batch.sequences, ctx);
    compare(buffers.y, batch.loss(s.number), group, target_sum_squares, batch, work, ctx);
    choice.variant->backward(dproj, s.grads, buffers.y, proj, saved, s.weights.params, shape, batch.sequences, ctx);
  }
  matmul_backward_weight(group.input_grad, buffers.dproj, x, ctx, /*accumulate=*/!batch.is_first);
}

void BldLayer::train_pair(Pair& pair, const MicroBatch& batch, Arena& work, Context& ctx) const {
  const TeacherLayer& teacher = batch.teacher;
  const Tensor input = pair.layers_back > 0 ? batch.earlier[static_cast<size_t>(pair.layers_back - 1)] : teacher.input;
  const int64_t N = input.rows;
  const ArenaScope scope(work);
  const Tensor middle = work.tensor(N, config_.hidden_size, dtype_);
  const Tensor output = work.tensor(N, config_.hidden_size, dtype_);
  const Tensor dx = work.tensor(N, config_.hidden_size, dtype_);
  SubblockActivations attention = make_activations(pair.weights.attention.choice, config_, N, dtype_, work);
  SubblockActivations ffn = make_activations(pair.weights.ffn.choice, config_, N, dtype_, work);
  subblock_forward(middle, attention, input, pair.weights.attention, config_, batch.sequences, ctx);
  add(middle, middle, input, ctx);
  subblock_forward(output, ffn, middle, pair.weights.ffn, config_, batch.sequences, ctx);
  add(output, output, middle, ctx);
  const Tensor target_sum_squares = work.tensor(1, 1, DType::f32);
  const float scale = 1.0f / static_cast<float>(options_.micro_batches);
  sum_squares(target_sum_squares, teacher.output, ctx);
  normalized_mse(batch.loss(pair.number), dx, output, teacher.output, target_sum_squares, scale, ctx);
  subblock_backward(dx, pair.ffn_grads, dx, middle, ffn, pair.weights.ffn, config_, batch.sequences, ctx);
  subblock_backward({}, pair.attention_grads, dx, input, attention, pair.weights.attention, config_, batch.sequences,
                    ctx);
}

void BldLayer::end_step(std::span<float> losses, int64_t steps_done, Context& ctx) {
  sum_gradients(trainables_, owners_, replicas_, ctx);
  gather_rows(measured_, replicas_, ctx);
  const HostView measured(measured_, ctx);
  for (size_t i = 0; i < places_.size(); ++i) {
    float& mean = losses[places_[i]] = 0;
    for (int64_t m = 0; m < measured_.rows; ++m)
      mean += measured.as<float>()[m * measured_.cols + static_cast<int64_t>(i)] / static_cast<float>(measured_.rows);
  }
  const std::vector<Trainable> own = own_trainables();
  const std::vector<double> norms =
      optimiser_step(own, options_.optimiser, options_.schedule.learning_rate(steps_done), steps_done + 1, ctx);
  size_t n = 0;
  for (size_t i = 0; i < places_.size(); ++i) {
    if (!is_own(i)) continue;
    const double norm = norms[n++];
    if (const float loss = losses[places_[i]]; !std::isfinite(loss) || !std::isfinite(norm))
      throw Error(
          fmt::format("distillation of {} broke at step {}: loss {}, gradient norm {}; lower distill.learning_rate",
                      trainables_[i].name, steps_done, loss, norm));
  }
  share_weights(trainables_, owners_, replicas_, ctx);
}

void BldLayer::add_to(BldPlan& plan) const {
  int64_t gradients = 0;
  for (const Trainable& trainable : trainables_)
    for (const TrainableTensor& t : trainable.tensors) {
      plan.weight_bytes += t.weight.bytes();
      if (t.master.data != t.weight.data) plan.master_bytes += t.master.bytes();  // nothing where another owns it
      plan.moment_bytes += t.moment1.bytes() + t.moment2.bytes();
      gradients += t.weight.size() * size_of(DType::f32);
    }
  gradients *= 1 + std::countr_zero(static_cast<uint64_t>(shards_of(replicas_, options_)));  // with tree_sums_
  plan.gradient_bytes = std::max(plan.gradient_bytes, gradients);  // the layers' are in the same memory
}

std::vector<Trainable> BldLayer::own_trainables() const {
  std::vector<Trainable> own;
  for (size_t i = 0; i < trainables_.size(); ++i)
    if (is_own(i)) own.push_back(trainables_[i]);
  return own;
}

bool BldLayer::owns(size_t place) const {
  const auto found = std::find(places_.begin(), places_.end(), place);
  return found != places_.end() && is_own(size_t(found - places_.begin()));
}

void BldLayer::append_state(std::vector<NamedTensor>& tensors) const {
  for (const Trainable& trainable : own_trainables()) tangram::append_state(tensors, trainable);
}

void BldLayer::resume(Context& ctx) {
  for (const Trainable& trainable : own_trainables()) restore_weights(trainable, ctx);
  share_weights(trainables_, owners_, replicas_, ctx);
}

LibraryEntry BldLayer::entry(const Replacement& replacement, size_t place, const BlockWeights& teacher,
                             Context& ctx) const {
  LibraryEntry entry{.replacement = replacement, .attention = {}, .ffn = {}, .memory = {}};
  const auto add = [&](Subblock sub, const SubblockWeights& weights) {
    entry.of(sub) = on_host(weights, config_, entry.memory, ctx);
  };
  for (const Pair& pair : pairs_)
    if (places_[pair.number] == place)
      add(Subblock::attention, pair.weights.attention), add(Subblock::ffn, pair.weights.ffn);
  for (const Group& group : groups_)
    for (const Student& s : group.students)
      if (places_[s.number] == place)
        add(group.subblock, {s.weights.choice, teacher.of(group.subblock).norm, s.weights.params});
  return entry;
}

}  // namespace tangram
