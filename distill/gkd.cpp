#include "distill/gkd.h"

#include <cmath>
#include <numeric>

#include "kernels/cosine.h"
#include "kernels/elementwise.h"
#include "kernels/head_loss.h"
#include "kernels/make_arena.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

double weighted_sum(Tensor values, std::span<const float> weights, Context& ctx) {
  const HostView host(values, ctx);
  double sum = 0;
  for (int64_t n = 0; n < values.cols; ++n)
    sum += double(host.as<float>()[n]) * (weights.empty() ? 1.0 : double(weights[static_cast<size_t>(n)]));
  return sum;
}

// Sum of the weights of all tokens, and of those that have a target.
std::pair<double, double> total_weights(const Batch& batch) {
  double all = 0, with_target = 0;
  for (size_t n = 0; n < batch.tokens.size(); ++n) {
    const double w = batch.weights.empty() ? 1.0 : double(batch.weights[n]);
    all += w;
    if (batch.targets[n] >= 0) with_target += w;
  }
  return {all, with_target};
}

}  // namespace

GkdTrainer::GkdTrainer(Model& student, const Model* teacher, const GkdOptions& options, Context& ctx)
    : student_(student), teacher_(teacher), options_(options), ctx_(ctx) {
  CHECK(teacher || (options_.loss.cosine == 0 && options_.loss.kl == 0), "a distillation loss needs a teacher");
  std::vector<int64_t>& layers = options_.teacher_layers;
  if (layers.empty())
    for (int64_t b = 0; b < std::ssize(student.blocks); ++b) layers.push_back(b);
  CHECK(layers.size() == student.blocks.size(), "{} student blocks that end with {} teacher layers",
        student.blocks.size(), layers.size());
  for (size_t b = 0; teacher && b < layers.size(); ++b)
    CHECK(layers[b] > (b > 0 ? layers[b - 1] : -1) && layers[b] < std::ssize(teacher->blocks) &&
              (b + 1 < layers.size() || layers[b] + 1 == std::ssize(teacher->blocks)),
          "the student's block {} of {} ends with the teacher's layer {} of {}", b, layers.size(), layers[b],
          teacher->blocks.size());
  Arena state_plan = Arena::planner(), work_plan = Arena::planner();
  lay_out(state_plan);
  lay_out_work(work_plan);
  state_ = std::make_unique<Arena>(make_arena(state_plan.used_bytes(), ctx));
  work_ = std::make_unique<Arena>(make_arena(work_plan.used_bytes(), ctx));
  lay_out(*state_);
  lay_out_work(*work_);
  start_training(trainable_, ctx_);
}

void GkdTrainer::lay_out(Arena& state) {
  grads_ = make_grads(student_, state);
  trainable_ = {.name = "student", .tensors = {}};
  int64_t used = 0;
  for (const NamedTensor& t : named_tensors(student_)) {
    const Tensor grad = grads_.flat.col_range(used, t.tensor.size()).reshape(t.tensor.rows, t.tensor.cols);
    used += t.tensor.size();
    const bool is_matrix = t.tensor.rows > 1;  // norms are not decayed
    trainable_.tensors.push_back(make_trainable(t.name, t.tensor, is_matrix, &state));
    trainable_.tensors.back().grad = grad;
  }
}

void GkdTrainer::lay_out_work(Arena& work) {
  const int64_t N = options_.batch_tokens;
  activations_ = make_activations(student_, N, work);
  dhidden_ = work.tensor(N, student_.config.hidden_size, student_.dtype);
  token_loss_ = work.tensor(1, N, DType::f32);
  token_kl_ = work.tensor(1, N, DType::f32);
  teacher_hidden_.clear();
  if (!teacher_) return;
  for (size_t b = 0; b < student_.blocks.size(); ++b)
    teacher_hidden_.push_back(work.tensor(N, teacher_->config.hidden_size, teacher_->dtype));
  teacher_final_ = work.tensor(N, teacher_->config.hidden_size, teacher_->dtype);
}

void GkdTrainer::micro_step(GkdLosses& losses, const Batch& batch) {
  const int64_t N = options_.batch_tokens;
  CHECK(static_cast<int64_t>(batch.tokens.size()) == N, "a batch of {} tokens, not {}", batch.tokens.size(), N);
  ArenaScope scope(ctx_.scratch);
  const SequenceBatch sequence_batch(student_.config, batch.lengths, {}, ctx_.scratch, ctx_);
  const Sequences& sequences = sequence_batch.view();
  const double share = 1.0 / double(options_.micro_batches);

  if (teacher_) {
    Tensor x = teacher_final_;
    embed(x, *teacher_, batch.tokens, ctx_);
    size_t layer = 0;
    for (size_t b = 0; b < teacher_hidden_.size(); ++b) {
      copy(teacher_hidden_[b], x, ctx_);
      x = teacher_hidden_[b];
      for (; static_cast<int64_t>(layer) <= options_.teacher_layers[b]; ++layer)
        block_forward(x, teacher_->blocks[layer], teacher_->config, sequences, ctx_);
    }
    final_norm_forward(teacher_final_, *teacher_, x, ctx_);
  }
  model_forward(activations_, student_, batch.tokens, sequences, ctx_);

  const auto [all_weights, target_weights] = total_weights(batch);
  const GkdLossWeights& weight = options_.loss;
  HeadInputs inputs{.student = {activations_.hidden, student_.head}, .teacher = {}, .targets = batch.targets};
  HeadLosses outputs{.cross_entropy = token_loss_, .kl = {}, .greedy = {}, .teacher_rank = {}};
  if (teacher_) inputs.teacher = Head{teacher_final_, teacher_->head}, outputs.kl = token_kl_;
  const HeadObjective objective{
      .cross_entropy_scale = static_cast<float>(share * weight.cross_entropy / std::max(target_weights, 1e-30)),
      .kl_scale = static_cast<float>(share * weight.kl / std::max(all_weights, 1e-30)),
      .weights = batch.weights};
  head_loss_forward_backward(outputs, dhidden_, grads_.head, inputs, objective, ctx_);
  losses.cross_entropy += share * weighted_sum(token_loss_, batch.weights, ctx_) / std::max(target_weights, 1e-30);
  if (teacher_) losses.kl += share * weighted_sum(token_kl_, batch.weights, ctx_) / std::max(all_weights, 1e-30);

  const auto add_cosine = [&](int64_t layer, Tensor dx) {
    const Tensor student = activations_.residual[static_cast<size_t>(2 * layer + 2)];
    const Tensor teacher = teacher_hidden_[static_cast<size_t>(layer)];
    cosine_forward(token_loss_, student, teacher, ctx_);
    cosine_backward(dx, student, teacher, static_cast<float>(share * weight.cosine / double(N)), ctx_);
    losses.cosine += share * weighted_sum(token_loss_, {}, ctx_) / double(N);
  };
  model_backward(grads_, dhidden_, activations_, student_, batch.tokens, sequences,
                 weight.cosine > 0 ? HiddenGradient(add_cosine) : HiddenGradient(), ctx_);
}

GkdLosses GkdTrainer::step(std::span<const Batch> micro_batches) {
  CHECK(static_cast<int64_t>(micro_batches.size()) == options_.micro_batches, "{} micro-batches of {}",
        micro_batches.size(), options_.micro_batches);
  GkdLosses losses;
  fill_zero(grads_.flat, ctx_);
  for (const Batch& batch : micro_batches) micro_step(losses, batch);
  losses.gradient_norm = optimiser_step(std::span(&trainable_, 1), options_.optimiser,
                                        options_.schedule.learning_rate(steps_done_), steps_done_ + 1, ctx_)[0];
  if (!std::isfinite(losses.gradient_norm) || !std::isfinite(losses.cross_entropy + losses.kl + losses.cosine))
    throw Error(
        fmt::format("training broke at step {}: cross-entropy {}, KL {}, gradient norm {}; lower the learning_rate",
                    steps_done_, losses.cross_entropy, losses.kl, losses.gradient_norm));
  ++steps_done_;
  return losses;
}

std::vector<NamedTensor> GkdTrainer::state() const {
  std::vector<NamedTensor> tensors;
  append_state(tensors, trainable_);
  return tensors;
}

void GkdTrainer::resume(int64_t steps_done) {
  restore_weights(trainable_, ctx_);
  steps_done_ = steps_done;
}

}  // namespace tangram
