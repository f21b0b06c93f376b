#include "puzzle/replace_one.h"

#include <cmath>

#include "kernels/cosine.h"
#include "kernels/elementwise.h"
#include "kernels/head_loss.h"
#include "kernels/make_arena.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

int64_t bytes_for(const Model& model, int64_t tokens) {
  Arena planner = Arena::planner();
  for (size_t i = 0; i < 2 * model.blocks.size() + 2; ++i)
    planner.tensor(tokens, model.config.hidden_size, model.dtype);
  planner.tensor(tokens, model.config.head_dim, DType::f32);  // of the rotations,
  for (int i = 0; i < 2; ++i)
    planner.tensor(1, tokens + 1, DType::i32);  // and of where sequences begin: at most one a token
  return planner.used_bytes();
}

// x += f(norm(x)) with the subblock of `weights`.
void apply_subblock(Tensor x, const SubblockWeights& weights, const ModelConfig& config, const Sequences& sequences,
                    Context& ctx) {
  if (weights.choice.variant->no_op) return;
  ArenaScope scope(ctx.scratch);
  const Tensor y = ctx.scratch.tensor(x.rows, x.cols, x.dtype);
  SubblockActivations activations = make_activations(weights.choice, config, x.rows, x.dtype, ctx.scratch);
  subblock_forward(y, activations, x, weights, config, sequences, ctx);
  add(x, x, y, ctx);
}

}  // namespace

ReplaceOneScorer::ReplaceOneScorer(const Model& teacher, int64_t batch_tokens, Context& ctx)
    : ReplaceOneScorer(teacher, teacher, batch_tokens, ctx) {}

ReplaceOneScorer::ReplaceOneScorer(const Model& teacher, const Model& model, int64_t batch_tokens, Context& ctx)
    : teacher_(teacher), model_(model), ctx_(ctx), memory_(make_arena(bytes_for(model, batch_tokens), ctx)) {}

void ReplaceOneScorer::start_batch(const ScoringBatch& batch) {
  batch_ = batch;
  const auto N = static_cast<int64_t>(batch.tokens.size());
  const ModelConfig& config = teacher_.config;
  CHECK(batch.sequence_length > 0 && N % batch.sequence_length == 0, "{} tokens in sequences of {}", N,
        batch.sequence_length);
  memory_.rewind(0);
  sequences_.emplace(config, batch.lengths, std::span<const int32_t>{}, memory_, ctx_);
  residual_.clear();
  hidden_ = memory_.tensor(N, config.hidden_size, teacher_.dtype);
  x_ = memory_.tensor(N, config.hidden_size, teacher_.dtype);
  const auto run = [&](const Model& model, bool keep) {
    embed(x_, model, batch.tokens, ctx_);
    for (const BlockWeights& block : model.blocks)
      for (Subblock s : {Subblock::attention, Subblock::ffn}) {
        if (keep) {
          residual_.push_back(memory_.tensor(N, config.hidden_size, teacher_.dtype));
          copy(residual_.back(), x_, ctx_);
        }
        apply_subblock(x_, block.of(s), config, sequences_->view(), ctx_);
      }
  };
  run(teacher_, &model_ == &teacher_);
  final_norm_forward(hidden_, teacher_, x_, ctx_);
  if (&model_ != &teacher_) run(model_, true);
}

SequenceMetrics ReplaceOneScorer::teacher_metrics() {
  return sequence_metrics(hidden_, teacher_, hidden_, teacher_, batch_, ctx_);
}

SequenceMetrics ReplaceOneScorer::score(const LibraryEntry& entry) {
  const Replacement& r = entry.replacement;
  std::vector<SubblockWeights> instead;
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    if (entry.of(s)) instead.push_back(*entry.of(s));
  return score(2 * static_cast<size_t>(r.first_layer) + (entry.attention ? 0 : 1),
               2 * static_cast<size_t>(r.last_layer()) + (entry.ffn ? 2 : 1), instead);
}

SequenceMetrics ReplaceOneScorer::score(size_t first, size_t last, std::span<const SubblockWeights> instead) {
  const ModelConfig& config = teacher_.config;
  CHECK(first <= last && last <= residual_.size(), "subblocks {} to {} of {}", first, last, residual_.size());
  const auto apply = [&](const SubblockWeights& weights) {
    apply_subblock(x_, weights, config, sequences_->view(), ctx_);
  };
  const auto apply_own = [&](size_t from, size_t to) {
    for (size_t i = from; i < to; ++i) apply(model_.blocks[i / 2].of(i % 2 == 0 ? Subblock::attention : Subblock::ffn));
  };
  const size_t start = std::min(first, residual_.size() - 1);  // no stream is kept behind the last
  copy(x_, residual_.at(start), ctx_);
  apply_own(start, first);
  for (const SubblockWeights& weights : instead) apply(weights);
  apply_own(last, residual_.size());
  final_norm_forward(x_, model_, x_, ctx_);
  return measure(x_);
}

SequenceMetrics ReplaceOneScorer::measure(Tensor hidden) {
  return sequence_metrics(hidden, model_, hidden_, teacher_, batch_, ctx_);
}

SequenceMetrics sequence_metrics(Tensor student_hidden, const Model& student, Tensor teacher_hidden,
                                 const Model& teacher, const ScoringBatch& batch, Context& ctx) {
  const int64_t N = student_hidden.rows;
  ArenaScope scope(ctx.scratch);
  const Tensor cross_entropy = ctx.scratch.tensor(1, N, DType::f32), kl = ctx.scratch.tensor(1, N, DType::f32);
  const Tensor rank = ctx.scratch.tensor(1, N, DType::i32), cosine = ctx.scratch.tensor(1, N, DType::f32);
  head_loss_forward({.cross_entropy = cross_entropy, .kl = kl, .greedy = {}, .teacher_rank = rank},
                    {.student = {student_hidden, student.head},
                     .teacher = Head{teacher_hidden, teacher.head},
                     .targets = batch.targets},
                    ctx);
  cosine_forward(cosine, student_hidden, teacher_hidden, ctx);

  const HostView h_cross_entropy(cross_entropy, ctx), h_kl(kl, ctx), h_rank(rank, ctx), h_cosine(cosine, ctx);
  SequenceMetrics metrics(static_cast<size_t>(N / batch.sequence_length), MetricValues{});
  for (size_t s = 0; s < metrics.size(); ++s) {
    int64_t with_target = 0;
    const int64_t first = static_cast<int64_t>(s) * batch.sequence_length;
    MetricValues& m = metrics[s];
    for (int64_t n = first; n < first + batch.sequence_length; ++n) {
      with_target += batch.targets[static_cast<size_t>(n)] >= 0;
      const int32_t place = h_rank.as<int32_t>()[n];
      m[size_t(Metric::kl_divergence)] += double(h_kl.as<float>()[n]);
      m[size_t(Metric::lm_loss)] += double(h_cross_entropy.as<float>()[n]);
      m[size_t(Metric::top_1)] += place < 1;
      m[size_t(Metric::top_5)] += place < 5;
      m[size_t(Metric::top_10)] += place < 10;
      m[size_t(Metric::hidden_cosine)] += double(h_cosine.as<float>()[n]);
    }
    for (size_t i = 0; i < kMetricCount; ++i)
      m[i] /= i == size_t(Metric::lm_loss) ? double(std::max<int64_t>(with_target, 1)) : double(batch.sequence_length);
  }
  return metrics;
}

MeanAndError mean_and_error(std::span<const double> values) {
  const auto n = double(values.size());
  if (values.empty()) return {};
  double mean = 0, squares = 0;
  for (double v : values) mean += v / n;
  for (double v : values) squares += (v - mean) * (v - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (n - 1) / n) : 0};
}

}  // namespace tangram
