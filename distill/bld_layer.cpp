#include "distill/bld_layer.h"

#include <algorithm>
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

}  // namespace

void check_micro_batches(std::span<const Batch> micro_batches, const BldOptions& options) {
  CHECK(std::ssize(micro_batches) == options.micro_batches, "{} micro-batches of {}", micro_batches.size(),
        options.micro_batches);
  for (const Batch& batch : micro_batches)
    CHECK(std::ssize(batch.tokens) == options.batch_tokens, "a batch of {} tokens, not {}", batch.tokens.size(),
          options.batch_tokens);
}

BldLayer::BldLayer(int64_t layer, std::span<const Replacement> replacements, const ModelConfig& config, DType dtype,
                   const BldOptions& options, Arena& state)
    : index_(layer), config_(config), dtype_(dtype), options_(options) {
  CHECK(options_.batch_tokens > 0 && options_.micro_batches > 0, "{} tokens x {} micro-batches", options_.batch_tokens,
        options_.micro_batches);
  const auto number_of = [&](size_t place) {
    const Replacement& r = replacements[place];
    CHECK(r.layer_count == 1 || (r.attention && r.ffn), "{} of layers {} is no whole block", r.name(), r.layers());
    places_.push_back(place);
    trainables_.push_back({.name = fmt::format("{}.{}", r.layers(), r.name()), .tensors = {}});
    return trainables_.size() - 1;
  };
  const auto unfilled = [](const Choice& choice) {
    return SubblockWeights{.choice = choice, .norm = {}, .params = {}};
  };
  const auto of_layer = [&](size_t place, bool pair) {
    const Replacement& r = replacements[place];
    return r.last_layer() == layer && (r.attention && r.ffn) == pair;
  };
  for (Group& group : groups_) {
    for (size_t i = 0; i < replacements.size(); ++i)
      if (const std::optional<Choice>& choice = replacements[i].of(group.subblock); choice && of_layer(i, false))
        group.students.push_back({.number = number_of(i), .weights = unfilled(*choice)});
    lay_out(group, state);
  }
  for (size_t i = 0; i < replacements.size(); ++i)
    if (of_layer(i, true)) {
      const Replacement& r = replacements[i];
      pairs_.push_back({.number = number_of(i),
                        .layers_back = r.layer_count - 1,
                        .weights = {unfilled(*r.attention), unfilled(*r.ffn)}});
      lay_out(pairs_.back(), state);
    }
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
      trainables_[s.number].tensors.push_back(make_trainable(p.name, weight, {}, true, state));
    }
    s.grads.resize(s.weights.params.size());
  }
}

void BldLayer::lay_out(Pair& pair, Arena& state) {
  std::vector<TrainableTensor>& tensors = trainables_[pair.number].tensors;
  for (const Subblock sub : {Subblock::attention, Subblock::ffn}) {
    SubblockWeights& weights = pair.weights.of(sub);
    weights = make_weights(weights.choice, config_, dtype_, state);
    if (weights.choice.variant->no_op) continue;
    const std::string prefix = std::string(name_of(sub)) + ".";
    tensors.push_back(make_trainable(prefix + "norm", weights.norm, {}, false, state));
    const std::vector<ParamSpec> specs = specs_of(weights.choice, config_);
    for (size_t i = 0; i < specs.size(); ++i)
      tensors.push_back(make_trainable(prefix + specs[i].name, weights.params[i].values, {}, true, state));
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
  for (Trainable& trainable : trainables_) start_training(trainable, ctx);
}

void BldLayer::start_gradients(Group& group, Arena& work, Context& ctx) {
  const Tensor wide = group.input_weight.values;
  group.input_grad = work.tensor(wide.rows, wide.cols, DType::f32);
  for (Student& s : group.students) {
    const std::vector<ParamSpec> specs = specs_of(s.weights.choice, config_);
    int64_t row = s.column;
    for (size_t i = 0; i < specs.size(); ++i) {
      const ParamSpec& p = specs[i];
      s.grads[i] = p.input ? group.input_grad.row_range(row, p.rows) : work.tensor(p.rows, p.cols, DType::f32);
      if (p.input)
        row += p.rows;
      else
        fill_zero(s.grads[i], ctx);
      trainables_[s.number].tensors[i].grad = s.grads[i];
    }
  }
}

void BldLayer::start_gradients(Pair& pair, Arena& work, Context& ctx) {
  pair.attention_grads = make_grads(pair.weights.attention.choice, config_, work);
  pair.ffn_grads = make_grads(pair.weights.ffn.choice, config_, work);
  std::vector<TrainableTensor>& tensors = trainables_[pair.number].tensors;
  size_t t = 0;
  for (const SubblockGrads* grads : {&pair.attention_grads, &pair.ffn_grads}) {
    if (!grads->norm.rows) continue;  // a no_op
    tensors[t++].grad = grads->norm;
    for (const Tensor& g : grads->params) tensors[t++].grad = g;
  }
  for (const TrainableTensor& tensor : tensors) fill_zero(tensor.grad, ctx);
}

void BldLayer::begin_step(Arena& work, Context& ctx) {
  for (Group& group : groups_) start_gradients(group, work, ctx);
  for (Pair& pair : pairs_) start_gradients(pair, work, ctx);
  measured_ = work.tensor(options_.micro_batches, std::ssize(trainables_), DType::f32);
  teacher_ = make_teacher_layer(config_, options_.batch_tokens, dtype_, work);
  micro_batches_done_ = 0;
}

void BldLayer::train(Tensor residual, std::span<const Tensor> earlier, const Sequences& sequences,
                     const BlockWeights& teacher, Arena& work, Context& ctx) {
  CHECK(std::ssize(earlier) >= reach(), "{} earlier residual streams, {} are needed", earlier.size(), reach());
  copy(teacher_.input, residual, ctx);
  teacher_layer_forward(teacher_, teacher, config_, sequences, ctx);
  const int64_t m = micro_batches_done_++;
  const MicroBatch batch{teacher_, earlier, teacher, sequences, measured_.row_range(m, 1), m == 0};
  for (Group& group : groups_) train_group(group, batch, work, ctx);
  for (Pair& pair : pairs_) train_pair(pair, batch, work, ctx);
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
  const HostView measured(measured_, ctx);
  for (size_t i = 0; i < places_.size(); ++i) {
    float& mean = losses[places_[i]] = 0;
    for (int64_t m = 0; m < measured_.rows; ++m)
      mean += measured.as<float>()[m * measured_.cols + static_cast<int64_t>(i)] / static_cast<float>(measured_.rows);
  }
  const std::vector<double> norms =
      optimiser_step(trainables_, options_.optimiser, options_.schedule.learning_rate(steps_done), steps_done + 1, ctx);
  for (size_t i = 0; i < places_.size(); ++i)
    if (const float loss = losses[places_[i]]; !std::isfinite(loss) || !std::isfinite(norms[i]))
      throw Error(
          fmt::format("distillation of {} broke at step {}: loss {}, gradient norm {}; lower distill.learning_rate",
                      trainables_[i].name, steps_done, loss, norms[i]));
}

void BldLayer::add_to(BldPlan& plan) const {
  int64_t gradients = 0;
  for (const Trainable& trainable : trainables_)
    for (const TrainableTensor& t : trainable.tensors) {
      plan.weight_bytes += t.weight.bytes();
      if (t.master.data != t.weight.data) plan.master_bytes += t.master.bytes();
      plan.moment_bytes += t.moment1.bytes() + t.moment2.bytes();
      gradients += t.weight.size() * size_of(DType::f32);
    }
  plan.gradient_bytes = std::max(plan.gradient_bytes, gradients);  // the layers' are in the same memory
}

void BldLayer::append_state(std::vector<NamedTensor>& tensors) const {
  for (const Trainable& trainable : trainables_) tangram::append_state(tensors, trainable);
}

void BldLayer::resume(Context& ctx) {
  for (const Trainable& trainable : trainables_) restore_weights(trainable, ctx);
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
