#include <algorithm>
#include <cmath>

#include "distill/bld_layer.h"
#include "kernels/elementwise.h"
#include "kernels/mse.h"
#include "kernels/transfer.h"

// One optimiser step of a layer's students.

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

// Of the gradients of all variants; a replica trains on as many runs of micro-batches as it has shards.
int64_t shards_of(const Replicas& replicas, const BldOptions& options) { return options.shards / replicas.count; }
int64_t micro_batches_of(const Replicas& replicas, const BldOptions& options) {
  return options.micro_batches / replicas.count;
}

}  // namespace

void check_micro_batches(std::span<const Batch> micro_batches, const BldOptions& options, int64_t replicas) {
  CHECK(std::ssize(micro_batches) * replicas == options.micro_batches, "{} micro-batches for each of {} replicas of {}",
        micro_batches.size(), replicas, options.micro_batches);
  for (const Batch& batch : micro_batches)
    CHECK(std::ssize(batch.tokens) == options.batch_tokens, "a batch of {} tokens, not {}", batch.tokens.size(),
          options.batch_tokens);
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

}  // namespace tangram
