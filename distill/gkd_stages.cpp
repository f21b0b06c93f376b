#include "distill/gkd_stages.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "distill/placement.h"
#include "kernels/head_loss.h"

namespace tangram {
namespace {

struct BlockCost {
  double forward = 0, backward = 0;
};

/// Of one block with both its passes; `planning` counts.
BlockCost cost_of(const BlockChoice& choice, const ModelConfig& config, DType dtype, const Batch& batch,
                  Context& planning) {
  Arena arena = Arena::planner(planning.device);
  const auto N = std::ssize(batch.tokens);
  const BlockWeights block{make_weights(choice.attention, config, dtype, arena),
                           make_weights(choice.ffn, config, dtype, arena)};
  std::vector<SubblockGrads> grads{make_grads(choice.attention, config, arena), make_grads(choice.ffn, config, arena)};
  const SequenceBatch sequences(config, batch.lengths, {}, arena, planning);
  BlockActivations activations = make_activations(std::span(&block, 1), config, N, dtype, arena);
  activations.residual[0] = arena.tensor(N, config.hidden_size, dtype);

  const auto flops = [&] { return planning.matmul_flops + planning.attention_flops; };
  BlockCost cost;
  double before = flops();
  blocks_forward(activations, std::span(&block, 1), config, sequences.view(), planning);
  cost.forward = flops() - before;
  before = flops();
  blocks_backward(activations.residual[0], grads, activations, std::span(&block, 1), config, sequences.view(), {},
                  planning);
  cost.backward = flops() - before;
  return cost;
}

double head_cost(const ModelConfig& config, DType dtype, bool has_teacher, const Batch& batch, Context& planning) {
  Arena arena = Arena::planner(planning.device);
  const auto N = std::ssize(batch.tokens);
  const Head head{arena.tensor(N, config.hidden_size, dtype),
                  arena.tensor(config.vocab_size, config.hidden_size, dtype)};
  HeadInputs inputs{.student = head, .teacher = {}, .targets = batch.targets};
  HeadLosses outputs{.cross_entropy = arena.tensor(1, N, DType::f32)};
  if (has_teacher) inputs.teacher = head, outputs.kl = arena.tensor(1, N, DType::f32);
  const double before = planning.matmul_flops;
  head_loss_forward_backward(outputs, arena.tensor(N, config.hidden_size, dtype),
                             arena.tensor(config.vocab_size, config.hidden_size, DType::f32), inputs,
                             {.cross_entropy_scale = 1, .kl_scale = has_teacher ? 1.0f : 0.0f}, planning);
  return planning.matmul_flops - before;
}

}  // namespace

GkdCosts gkd_costs(const Architecture& student, const ModelConfig& teacher, DType dtype, const GkdOptions& options,
                   const Batch& batch, Device device) {
  Context planning({.device = device, .planning = true});
  std::map<std::string, BlockCost> known;  // equal blocks cost the same
  const auto cost = [&](const BlockChoice& choice) {
    const std::string name = choice.attention.name() + " " + choice.ffn.name();
    const auto found = known.find(name);
    return found != known.end() ? found->second : known[name] = cost_of(choice, teacher, dtype, batch, planning);
  };
  const bool has_teacher = options.loss.cosine > 0 || options.loss.kl > 0;
  const double teacher_layer = cost(teacher_architecture(teacher)[0]).forward;
  GkdCosts costs;
  for (size_t b = 0; b < student.size(); ++b) {
    const BlockCost own = cost(student[b]);
    costs.forward.push_back(own.forward);
    costs.backward.push_back(own.backward);
    const int64_t layers = options.teacher_layers[b] - (b > 0 ? options.teacher_layers[b - 1] : -1);
    costs.teacher.push_back(has_teacher ? double(layers) * teacher_layer : 0);
  }
  costs.head = head_cost(teacher, dtype, has_teacher, batch, planning);
  return costs;
}

double GkdCosts::all() const {
  double flops = head;
  for (const std::vector<double>* part : {&forward, &backward, &teacher})
    flops = std::accumulate(part->begin(), part->end(), flops);
  return flops;
}

std::vector<GkdStage> cut_student(const GkdCosts& costs, std::span<const double> speeds) {
  const auto count = std::ssize(costs.forward), stages = std::ssize(speeds);
  if (stages > count)
    throw bad_input("{} stages of {} blocks: more ranks than work; take at most {}, or more shards", stages, count,
                    count);
  std::vector<BldUnit> units;  // of a stage that is not the last
  for (int64_t b = 0; b < count; ++b) {
    const auto i = size_t(b);
    units.push_back({.layer = b,
                     .input_layer = b,
                     .places = {},
                     .flops = 2 * costs.forward[i] + costs.backward[i] + costs.teacher[i]});
  }
  GkdStage last{.begin = count, .end = count, .flops = costs.head};
  std::vector<GkdStage> best;
  double shortest = 0;
  for (int64_t begin = count - 1; begin >= stages - 1; --begin) {
    const auto i = size_t(begin);
    last.begin = begin;
    last.flops += costs.forward[i] + costs.backward[i] + costs.teacher[i];
    if (stages == 1 && begin > 0) continue;
    std::vector<GkdStage> cut;
    double longest = last.flops / speeds.back();
    if (stages > 1)
      for (const BldStage& stage : cut_stages(std::span(units).first(i), 0, speeds.first(size_t(stages - 1)))) {
        longest = std::max(longest, stage.flops / speeds[cut.size()]);
        cut.push_back({.begin = stage.begin, .end = stage.end, .flops = stage.flops});
      }
    cut.push_back(last);
    if (best.empty() || longest < shortest) best = std::move(cut), shortest = longest;
  }
  return best;
}

}  // namespace tangram
