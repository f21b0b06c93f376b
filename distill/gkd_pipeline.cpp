#include "distill/gkd.h"
#include "kernels/cosine.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/head_loss.h"
#include "kernels/rmsnorm.h"
#include "kernels/transfer.h"

// The way of micro-batches through the stages: one forward, one backward, and the losses at its end.

namespace tangram {
namespace {

// Messages of different kinds between neighbours; gkd.cpp has those between the first stage and the last.
enum Tag : int { kStream = 10, kTeacherStream, kGradient };

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

std::vector<Message> GkdTrainer::stream_in(int64_t m) {
  if (part_.is_first()) return {};
  const int previous = part_.grid().rank_of(part_.stage - 1, part_.replicas.index);
  std::vector<Message> messages{{Message::received, in_flight(m).input, previous, kStream}};
  if (teacher_) messages.push_back({Message::received, in_flight(m).teacher[0], previous, kTeacherStream});
  return messages;
}

std::vector<Message> GkdTrainer::stream_out(int64_t m) {
  if (part_.is_last()) return {};
  const int next = part_.grid().rank_of(part_.stage + 1, part_.replicas.index);
  std::vector<Message> messages{{Message::sent, stream_, next, kStream}};
  if (teacher_) messages.push_back({Message::sent, in_flight(m).teacher.back(), next, kTeacherStream});
  return messages;
}

std::vector<Message> GkdTrainer::gradient_in() {
  if (part_.is_last()) return {};
  return {{Message::received, dx_, part_.grid().rank_of(part_.stage + 1, part_.replicas.index), kGradient}};
}

std::vector<Message> GkdTrainer::gradient_out() {
  if (part_.is_first()) return {};
  return {{Message::sent, dx_, part_.grid().rank_of(part_.stage - 1, part_.replicas.index), kGradient}};
}

// Receives are posted before the computation that goes before their use, and sends are waited for where what they read
// is written again: both run beside the computation. On a GPU, where a message waits for those that were started before
// it, neighbours start those between them in the same order: a stage asks for the next stream behind its gradient.
void GkdTrainer::run_micro_batches(std::span<const Batch> batches) {
  const int64_t count = std::ssize(batches), ahead = std::min(part_.stages - 1 - part_.stage, count);
  const bool in_order = ctx_.device == Device::cuda;
  const ArenaScope gradients(ctx_.scratch);
  const Tensor in_turn[] = {
      dx_, part_.stages == 1 ? dx_ : ctx_.scratch.tensor(dx_.rows, dx_.cols, dx_.dtype)};  // of micro-batch m: m % 2
  Pending stream, gradient, sent_stream, sent_gradient[2];
  const auto start = [&](const std::vector<Message>& messages) {
    return messages.empty() || !part_.world || ctx_.planning() ? Pending() : part_.world->exchange(messages);
  };
  const auto with_sequences = [&](int64_t m, const auto& use) {
    const ArenaScope scope(ctx_.scratch);
    const Batch& batch = batches[size_t(m)];
    const SequenceBatch sequences(student_.config, batch.lengths, {}, ctx_.scratch, ctx_);
    use(batch, sequences.view());
  };
  const auto ask_for_stream = [&](int64_t m) {
    if (m < count) stream = start(stream_in(m));
  };
  const auto ask_for_gradient = [&](int64_t m) {
    sent_gradient[m % 2].wait();
    dx_ = in_turn[m % 2];
    gradient = start(gradient_in());
  };
  const auto run_forward = [&](int64_t m) {
    stream.wait();
    if (!in_order) ask_for_stream(m + 1);
    if (m >= ahead) ask_for_gradient(m - ahead);
    sent_stream.wait();
    with_sequences(m, [&](const Batch& batch, const Sequences& sequences) {
      forward(m, batch, sequences);
      if (part_.is_last()) backward(m, batch, sequences);
    });
    sent_stream = start(stream_out(m));
  };
  const auto run_backward = [&](int64_t m) {
    gradient.wait();
    if (!part_.is_last())
      with_sequences(m, [&](const Batch& batch, const Sequences& sequences) { backward(m, batch, sequences); });
    sent_gradient[m % 2] = start(gradient_out());
  };
  ask_for_stream(0);
  for (int64_t m = 0; m < count; ++m) {
    run_forward(m);
    if (m >= ahead) run_backward(m - ahead);
    if (in_order) ask_for_stream(m + 1);
  }
  for (int64_t m = count - ahead; m < count; ++m) {
    ask_for_gradient(m);
    run_backward(m);
  }
  sent_stream.wait();
  for (Pending& sent : sent_gradient) sent.wait();
  dx_ = in_turn[0];
}

void GkdTrainer::teacher_forward(int64_t m, const Batch& batch, const Sequences& sequences) {
  const std::vector<Tensor>& hidden = in_flight(m).teacher;
  if (part_.is_first()) embed(hidden[0], *teacher_, batch.tokens, ctx_);
  int64_t layer = last_layer(part_.begin - 1) + 1;
  for (size_t b = 0; b < hidden.size(); ++b) {
    if (b > 0) copy(hidden[b], hidden[b - 1], ctx_);
    for (; layer <= last_layer(part_.begin + int64_t(b)); ++layer)
      block_forward(hidden[b], teacher_->blocks[size_t(layer)], teacher_->config, sequences, ctx_);
  }
  if (part_.is_last()) final_norm_forward(teacher_final_, *teacher_, hidden.back(), ctx_);
}

void GkdTrainer::forward(int64_t m, const Batch& batch, const Sequences& sequences) {
  if (teacher_) teacher_forward(m, batch, sequences);
  const Tensor input = in_flight(m).input;
  if (part_.is_first()) embed(input, student_, batch.tokens, ctx_);
  if (!part_.is_last()) {
    copy(stream_, input, ctx_);
    for (const BlockWeights& block : blocks()) block_forward(stream_, block, student_.config, sequences, ctx_);
    return;
  }
  activations_.residual[0] = input;
  blocks_forward(activations_, blocks(), student_.config, sequences, ctx_);
  rmsnorm_forward(hidden_, rstd_, activations_.residual.back(), student_.final_norm,
                  static_cast<float>(student_.config.rms_norm_eps), ctx_);
  head_losses(m, batch);
}

void GkdTrainer::head_losses(int64_t m, const Batch& batch) {
  const double share = 1.0 / double(options_.micro_batches);
  const auto [all_weights, target_weights] = total_weights(batch);
  const GkdLossWeights& weight = options_.loss;
  HeadInputs inputs{.student = {hidden_, student_.head}, .teacher = {}, .targets = batch.targets};
  HeadLosses outputs{.cross_entropy = token_loss_, .kl = {}, .greedy = {}, .teacher_rank = {}};
  if (teacher_) inputs.teacher = Head{teacher_final_, teacher_->head}, outputs.kl = token_kl_;
  const HeadObjective objective{
      .cross_entropy_scale = static_cast<float>(share * weight.cross_entropy / std::max(target_weights, 1e-30)),
      .kl_scale = static_cast<float>(share * weight.kl / std::max(all_weights, 1e-30)),
      .weights = batch.weights};
  head_loss_forward_backward(outputs, dx_, head_grad_, inputs, objective, ctx_);
  loss_number(kCrossEntropy, m) =
      share * weighted_sum(token_loss_, batch.weights, ctx_) / std::max(target_weights, 1e-30);
  if (!teacher_) return;
  loss_number(kKl, m) = share * weighted_sum(token_kl_, batch.weights, ctx_) / std::max(all_weights, 1e-30);
}

void GkdTrainer::backward(int64_t m, const Batch& batch, const Sequences& sequences) {
  const double share = 1.0 / double(options_.micro_batches), N = double(options_.batch_tokens);
  if (part_.is_last()) {
    rmsnorm_backward(dx_, final_norm_grad_, dx_, activations_.residual.back(), student_.final_norm, rstd_, ctx_,
                     /*accumulate=*/false);
  } else {
    activations_.residual[0] = in_flight(m).input;
    blocks_forward(activations_, blocks(), student_.config, sequences, ctx_);
  }
  const auto add_cosine = [&](int64_t block, Tensor dx) {
    const Tensor student = activations_.residual[size_t(2 * block + 2)];
    const Tensor teacher = in_flight(m).teacher[size_t(block)];
    cosine_forward(token_loss_, student, teacher, ctx_);
    cosine_backward(dx, student, teacher, static_cast<float>(share * options_.loss.cosine / N), ctx_);
    loss_number(kCosine + size_t(part_.begin + block), m) = share * weighted_sum(token_loss_, {}, ctx_) / N;
  };
  blocks_backward(dx_, subblock_grads_, activations_, blocks(), student_.config, sequences,
                  options_.loss.cosine > 0 ? HiddenGradient(add_cosine) : HiddenGradient(), ctx_);
  if (part_.is_first()) embedding_backward(embedding_grad_, dx_, batch.tokens, ctx_);
  const int64_t per_shard = options_.micro_batches / options_.shards;
  if ((m + 1) % per_shard == 0) end_shard((m + 1) / per_shard - 1);
}

}  // namespace tangram
