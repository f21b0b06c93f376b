#include "distill/bld.h"

#include <cmath>

#include "kernels/elementwise.h"
#include "kernels/mse.h"

namespace tangram {

struct BldTrainer::Student {
  size_t index;  // of the replacement
  Choice choice;
  int64_t column = 0, columns = 0;  // of the group's wide product
  std::vector<Weight> params;
  std::vector<Tensor> grads;
  Trainable trainable;
};

struct BldTrainer::Group {
  Subblock subblock;
  Weight input_weight;  // (P, H): the input parameters of all students, one below the other
  Tensor input_grad;    // (P, H) f32
  std::vector<Student> students;
};

struct BldTrainer::Pair {
  size_t index;
  BlockWeights weights;
  SubblockGrads attention_grads, ffn_grads;
  Trainable trainable;
};

struct BldTrainer::Layer {
  int64_t index;
  Group attention{.subblock = Subblock::attention, .input_weight = {}, .input_grad = {}, .students = {}};
  Group ffn{.subblock = Subblock::ffn, .input_weight = {}, .input_grad = {}, .students = {}};
  std::vector<Pair> pairs{};
};

namespace {

std::vector<ParamSpec> specs_of(const Choice& choice, const ModelConfig& config) {
  return choice.variant->params({config, choice.size});
}

std::string trainable_name(const Replacement& r) { return fmt::format("{}.{}", r.first_layer, r.name()); }

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

// The frozen rest of a block behind an attention student, for BldTarget::block.
struct RestOfBlock {
  Tensor middle, output;
  SubblockActivations ffn;
};

RestOfBlock make_rest(const ModelConfig& config, int64_t tokens, DType dtype, Arena& work) {
  return {work.tensor(tokens, config.hidden_size, dtype), work.tensor(tokens, config.hidden_size, dtype),
          make_activations(teacher_choice(Subblock::ffn, config), config, tokens, dtype, work)};
}

// Gradients of weights that stay as they are: empty tensors, which no backward pass fills.
SubblockGrads frozen_grads(const SubblockWeights& weights) {
  SubblockGrads grads;
  grads.params.resize(weights.params.size());
  return grads;
}

}  // namespace

BldTrainer::BldTrainer(const Model& teacher, std::vector<Replacement> replacements, const BldOptions& options,
                       const std::function<LayerStatistics(int64_t)>& statistics, Context& ctx)
    : teacher_(teacher),
      replacements_(std::move(replacements)),
      options_(options),
      ctx_(ctx),
      losses_(replacements_.size(), 0.0f) {
  CHECK(options_.batch_tokens > 0 && options_.micro_batches > 0, "{} tokens x {} micro-batches", options_.batch_tokens,
        options_.micro_batches);
  Arena planner = Arena::planner();
  lay_out(planner);
  const int64_t work_bytes = plan_work();
  state_ = std::make_unique<Arena>(planner.used_bytes());
  work_ = std::make_unique<Arena>(work_bytes);
  lay_out(*state_);
  for (Layer& layer : layers_) initialise(layer, statistics(layer.index));
}

BldTrainer::~BldTrainer() = default;

int64_t BldTrainer::memory_bytes() const { return state_->capacity_bytes() + work_->capacity_bytes(); }

void BldTrainer::lay_out(Arena& state) {
  layers_.clear();
  for (int64_t l = 0; l < teacher_.config.num_hidden_layers; ++l) {
    Layer layer{.index = l};
    for (size_t i = 0; i < replacements_.size(); ++i) {
      const Replacement& r = replacements_[i];
      if (r.first_layer != l) continue;
      CHECK(r.layer_count == 1, "{}: replacements of several layers are not trained by this trainer", r.name());
      if (r.attention && r.ffn)
        layer.pairs.push_back(Pair{i, {}, {}, {}, {}});
      else if (r.attention)
        layer.attention.students.push_back(
            {.index = i, .choice = *r.attention, .params = {}, .grads = {}, .trainable = {}});
      else
        layer.ffn.students.push_back({.index = i, .choice = *r.ffn, .params = {}, .grads = {}, .trainable = {}});
    }
    lay_out_group(layer.attention, state);
    lay_out_group(layer.ffn, state);
    for (Pair& pair : layer.pairs) lay_out_pair(pair, state);
    layers_.push_back(std::move(layer));
  }
}

void BldTrainer::lay_out_group(Group& group, Arena& state) {
  const ModelConfig& config = teacher_.config;
  int64_t rows = 0;
  for (Student& s : group.students) {
    s.column = rows, s.columns = projection_size(s.choice, config);
    rows += s.columns;
  }
  group.input_weight = state.tensor(rows, config.hidden_size, teacher_.dtype);
  for (Student& s : group.students) {
    s.trainable.name = trainable_name(replacements_[s.index]);
    int64_t row = s.column;
    for (const ParamSpec& p : specs_of(s.choice, config)) {
      const Tensor weight =
          p.input ? group.input_weight.values.row_range(row, p.rows) : state.tensor(p.rows, p.cols, teacher_.dtype);
      if (p.input) row += p.rows;
      s.params.emplace_back(weight);
      s.trainable.tensors.push_back(make_trainable(p.name, weight, {}, true, state));
    }
    s.grads.resize(s.params.size());
  }
}

void BldTrainer::lay_out_pair(Pair& pair, Arena& state) {
  const Replacement& r = replacements_[pair.index];
  pair.trainable.name = trainable_name(r);
  for (Subblock sub : {Subblock::attention, Subblock::ffn}) {
    SubblockWeights& weights = pair.weights.of(sub);
    weights = make_weights(*r.of(sub), teacher_.config, teacher_.dtype, state);
    if (weights.choice.variant->no_op) continue;
    const std::string prefix = std::string(name_of(sub)) + ".";
    pair.trainable.tensors.push_back(make_trainable(prefix + "norm", weights.norm, {}, false, state));
    const std::vector<ParamSpec> specs = specs_of(weights.choice, teacher_.config);
    for (size_t i = 0; i < specs.size(); ++i)
      pair.trainable.tensors.push_back(
          make_trainable(prefix + specs[i].name, weights.params[i].values, {}, true, state));
  }
}

void BldTrainer::start_layer(Layer& layer, Arena& work) {
  for (Group* group : {&layer.attention, &layer.ffn}) {
    const Tensor wide = group->input_weight.values;
    group->input_grad = work.tensor(wide.rows, wide.cols, DType::f32);
    for (Student& s : group->students) {
      const std::vector<ParamSpec> specs = specs_of(s.choice, teacher_.config);
      int64_t row = s.column;
      for (size_t i = 0; i < specs.size(); ++i) {
        const ParamSpec& p = specs[i];
        s.grads[i] = p.input ? group->input_grad.row_range(row, p.rows) : work.tensor(p.rows, p.cols, DType::f32);
        if (p.input)
          row += p.rows;
        else if (!work.is_planner())
          fill_zero(s.grads[i]);
        s.trainable.tensors[i].grad = s.grads[i];
      }
    }
  }
  for (Pair& pair : layer.pairs) {
    pair.attention_grads = make_grads(pair.weights.attention.choice, teacher_.config, work);
    pair.ffn_grads = make_grads(pair.weights.ffn.choice, teacher_.config, work);
    size_t t = 0;
    for (const SubblockGrads* grads : {&pair.attention_grads, &pair.ffn_grads}) {
      if (!grads->norm.rows) continue;  // a no_op
      pair.trainable.tensors[t++].grad = grads->norm;
      for (const Tensor& g : grads->params) pair.trainable.tensors[t++].grad = g;
    }
    if (!work.is_planner())
      for (const TrainableTensor& tensor : pair.trainable.tensors) fill_zero(tensor.grad);
  }
}

// Bytes that the hungriest layer needs while it is at work, found by laying each of them out.
int64_t BldTrainer::plan_work() {
  const ModelConfig& config = teacher_.config;
  const int64_t N = options_.batch_tokens;
  Arena planner = Arena::planner();
  for (int64_t m = 0; m < options_.micro_batches; ++m) {
    planner.tensor(N, config.hidden_size, teacher_.dtype);
    planner.tensor(N, config.head_dim, DType::f32);                    // rotations
    for (int i = 0; i < 2; ++i) planner.tensor(1, N + 1, DType::i32);  // where sequences begin: at most one a token
  }
  make_teacher_layer(config, N, teacher_.dtype, planner);
  for (Layer& layer : layers_) {
    ArenaScope of_layer(planner);
    start_layer(layer, planner);
    for (const Group* group : {&layer.attention, &layer.ffn}) {
      ArenaScope of_group(planner);
      make_group_work(group->input_weight, N, planner);
      for (int i = 0; i < 2; ++i) planner.tensor(1, 1, DType::f32);  // a loss and its unit
      for (const Student& s : group->students) {
        ArenaScope of_student(planner);
        make_saved(s.choice, config, N, teacher_.dtype, planner);
        if (options_.target == BldTarget::block) make_rest(config, N, teacher_.dtype, planner);
      }
    }
    for (const Pair& pair : layer.pairs) {
      ArenaScope of_pair(planner);
      for (int i = 0; i < 2; ++i) planner.tensor(1, 1, DType::f32);
      for (int i = 0; i < 3; ++i) planner.tensor(N, config.hidden_size, teacher_.dtype);
      make_activations(pair.weights.attention.choice, config, N, teacher_.dtype, planner);
      make_activations(pair.weights.ffn.choice, config, N, teacher_.dtype, planner);
    }
  }
  return planner.peak_bytes();
}

void BldTrainer::initialise(Layer& layer, const LayerStatistics& statistics) {
  const ModelConfig& config = teacher_.config;
  const BlockWeights& block = teacher_.blocks[static_cast<size_t>(layer.index)];
  const auto start = [&](const Choice& choice, std::span<const Weight> params, Subblock sub, size_t index) {
    const InitInputs inputs{options_.init, options_.seed + index, &statistics.of(sub)};
    choice.variant->init_from_teacher(params, block.of(sub).params, {config, choice.size}, inputs, ctx_);
  };
  for (Group* group : {&layer.attention, &layer.ffn})
    for (Student& s : group->students) {
      start(s.choice, s.params, group->subblock, s.index);
      start_training(s.trainable);
    }
  for (Pair& pair : layer.pairs) {
    for (Subblock sub : {Subblock::attention, Subblock::ffn}) {
      SubblockWeights& weights = pair.weights.of(sub);
      if (weights.choice.variant->no_op) continue;
      copy(weights.norm, block.of(sub).norm);
      start(weights.choice, weights.params, sub, pair.index);
    }
    start_training(pair.trainable);
  }
}

void BldTrainer::step(std::span<const Batch> micro_batches) {
  CHECK(static_cast<int64_t>(micro_batches.size()) == options_.micro_batches, "{} micro-batches of {}",
        micro_batches.size(), options_.micro_batches);
  const ModelConfig& config = teacher_.config;
  const int64_t N = options_.batch_tokens;
  ArenaScope scope(*work_);
  std::vector<SequenceBatch> sequences;
  std::vector<Tensor> residual;  // of each micro-batch, at the boundary before the layer
  for (const Batch& batch : micro_batches) {
    CHECK(static_cast<int64_t>(batch.tokens.size()) == N, "a batch of {} tokens, not {}", batch.tokens.size(), N);
    sequences.emplace_back(config, batch.lengths, std::span<const int32_t>{}, *work_, ctx_);
    residual.push_back(work_->tensor(N, config.hidden_size, teacher_.dtype));
    embed(residual.back(), teacher_, batch.tokens, ctx_);
  }
  TeacherLayer teacher = make_teacher_layer(config, N, teacher_.dtype, *work_);
  std::fill(losses_.begin(), losses_.end(), 0.0f);
  for (Layer& layer : layers_) {
    const BlockWeights& block = teacher_.blocks[static_cast<size_t>(layer.index)];
    ArenaScope of_layer(*work_);
    start_layer(layer, *work_);
    for (size_t m = 0; m < micro_batches.size(); ++m) {
      const Sequences view = sequences[m].view();
      copy(teacher.input, residual[m]);
      teacher_layer_forward(teacher, block, config, view, ctx_);
      train_group(layer.attention, teacher, block, view, m == 0);
      train_group(layer.ffn, teacher, block, view, m == 0);
      for (Pair& pair : layer.pairs) train_pair(pair, teacher, view);
      copy(residual[m], teacher.output);
    }
    update(layer);
  }
  ++steps_done_;
}

// Loss of one student's output y; leaves the gradient to y in y.
float BldTrainer::student_loss(Tensor y, const Group& group, const TeacherLayer& teacher,
                               const BlockWeights& teacher_weights, const Sequences& sequences,
                               Tensor target_sum_squares) {
  const ModelConfig& config = teacher_.config;
  const float scale = 1.0f / static_cast<float>(options_.micro_batches);
  ArenaScope scope(*work_);
  const Tensor loss = work_->tensor(1, 1, DType::f32);
  // The residual stream is the same on both sides, so behind the FFN the difference of blocks is that of subblocks.
  if (options_.target == BldTarget::subblock || group.subblock == Subblock::ffn) {
    normalized_mse(loss, y, y, teacher.output_of(group.subblock), target_sum_squares, scale, ctx_);
    return *loss.as<float>();
  }
  RestOfBlock rest = make_rest(config, y.rows, y.dtype, *work_);
  add(rest.middle, teacher.input, y, ctx_);
  subblock_forward(rest.output, rest.ffn, rest.middle, teacher_weights.ffn, config, sequences, ctx_);
  add(rest.output, rest.output, rest.middle, ctx_);
  normalized_mse(loss, y, rest.output, teacher.output, target_sum_squares, scale, ctx_);
  SubblockGrads frozen = frozen_grads(teacher_weights.ffn);
  subblock_backward(y, frozen, y, rest.middle, rest.ffn, teacher_weights.ffn, config, sequences, ctx_);
  return *loss.as<float>();
}

void BldTrainer::train_group(const Group& group, const TeacherLayer& teacher, const BlockWeights& teacher_weights,
                             const Sequences& sequences, bool first_micro_batch) {
  if (group.students.empty()) return;
  const ModelConfig& config = teacher_.config;
  const Tensor x = teacher.activations(group.subblock).x;
  const Tensor compared = options_.target == BldTarget::block ? teacher.output : teacher.output_of(group.subblock);

  ArenaScope scope(*work_);
  const Tensor target_sum_squares = work_->tensor(1, 1, DType::f32);
  sum_squares(target_sum_squares, compared, ctx_);
  const GroupWork buffers = make_group_work(group.input_weight, x.rows, *work_);
  matmul_forward(buffers.proj, x, group.input_weight, ctx_);
  for (const Student& s : group.students) {
    ArenaScope of_student(*work_);
    const std::vector<Tensor> saved = make_saved(s.choice, config, x.rows, x.dtype, *work_);
    const Tensor proj = buffers.proj.col_range(s.column, s.columns),
                 dproj = buffers.dproj.col_range(s.column, s.columns);
    const VariantShape shape{config, s.choice.size};
    s.choice.variant->forward(buffers.y, proj, saved, s.params, shape, sequences, ctx_);
    const float loss = student_loss(buffers.y, group, teacher, teacher_weights, sequences, target_sum_squares);
    s.choice.variant->backward(dproj, s.grads, buffers.y, proj, saved, s.params, shape, sequences, ctx_);
    losses_[s.index] += loss / static_cast<float>(options_.micro_batches);
  }
  matmul_backward_weight(group.input_grad, buffers.dproj, x, ctx_, /*accumulate=*/!first_micro_batch);
}

void BldTrainer::train_pair(Pair& pair, const TeacherLayer& teacher, const Sequences& sequences) {
  const ModelConfig& config = teacher_.config;
  const int64_t N = teacher.input.rows;
  ArenaScope scope(*work_);
  const Tensor middle = work_->tensor(N, config.hidden_size, teacher_.dtype);
  const Tensor output = work_->tensor(N, config.hidden_size, teacher_.dtype);
  const Tensor dx = work_->tensor(N, config.hidden_size, teacher_.dtype);
  SubblockActivations attention = make_activations(pair.weights.attention.choice, config, N, teacher_.dtype, *work_);
  SubblockActivations ffn = make_activations(pair.weights.ffn.choice, config, N, teacher_.dtype, *work_);
  subblock_forward(middle, attention, teacher.input, pair.weights.attention, config, sequences, ctx_);
  add(middle, middle, teacher.input, ctx_);
  subblock_forward(output, ffn, middle, pair.weights.ffn, config, sequences, ctx_);
  add(output, output, middle, ctx_);
  const Tensor loss = work_->tensor(1, 1, DType::f32), target_sum_squares = work_->tensor(1, 1, DType::f32);
  const float scale = 1.0f / static_cast<float>(options_.micro_batches);
  sum_squares(target_sum_squares, teacher.output, ctx_);
  normalized_mse(loss, dx, output, teacher.output, target_sum_squares, scale, ctx_);
  subblock_backward(dx, pair.ffn_grads, dx, middle, ffn, pair.weights.ffn, config, sequences, ctx_);
  subblock_backward({}, pair.attention_grads, dx, teacher.input, attention, pair.weights.attention, config, sequences,
                    ctx_);
  losses_[pair.index] += *loss.as<float>() * scale;
}

void BldTrainer::update(Layer& layer) {
  const double learning_rate = options_.schedule.learning_rate(steps_done_);
  const auto step = [&](Trainable& trainable, size_t index) {
    const double norm = optimiser_step(trainable, options_.optimiser, learning_rate, steps_done_ + 1, ctx_);
    if (!std::isfinite(losses_[index]) || !std::isfinite(norm))
      throw Error(
          fmt::format("distillation of {} broke at step {}: loss {}, gradient norm {}; lower distill.learning_rate",
                      trainable.name, steps_done_, losses_[index], norm));
  };
  for (Group* group : {&layer.attention, &layer.ffn})
    for (Student& s : group->students) step(s.trainable, s.index);
  for (Pair& pair : layer.pairs) step(pair.trainable, pair.index);
}

std::vector<NamedTensor> BldTrainer::state() const {
  std::vector<NamedTensor> tensors;
  for (const Layer& layer : layers_) {
    for (const Group* group : {&layer.attention, &layer.ffn})
      for (const Student& s : group->students) append_state(tensors, s.trainable);
    for (const Pair& pair : layer.pairs) append_state(tensors, pair.trainable);
  }
  return tensors;
}

void BldTrainer::resume(int64_t steps_done) {
  for (Layer& layer : layers_) {
    for (Group* group : {&layer.attention, &layer.ffn})
      for (Student& s : group->students) restore_weights(s.trainable);
    for (Pair& pair : layer.pairs) restore_weights(pair.trainable);
  }
  steps_done_ = steps_done;
}

LibraryEntry BldTrainer::entry(size_t index) const {
  const Replacement& r = replacements_[index];
  const BlockWeights& teacher = teacher_.blocks[static_cast<size_t>(r.first_layer)];
  LibraryEntry entry{.replacement = r, .attention = {}, .ffn = {}, .memory = {}};
  const Layer& layer = layers_[static_cast<size_t>(r.first_layer)];
  for (const Pair& pair : layer.pairs)
    if (pair.index == index) entry.attention = pair.weights.attention, entry.ffn = pair.weights.ffn;
  for (const Group* group : {&layer.attention, &layer.ffn})
    for (const Student& s : group->students)
      if (s.index == index)
        entry.of(group->subblock) = SubblockWeights{s.choice, teacher.of(group->subblock).norm, s.params};
  return entry;
}

}  // namespace tangram
