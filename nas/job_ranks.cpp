#include "nas/job_ranks.h"

#include <algorithm>
#include <numeric>

#include "nas/distill_grid.h"
#include "nas/plan.h"
#include "nas/training_loop.h"
#include "nas/uptrain_grid.h"

namespace tangram {
namespace {

int64_t ranks_of_distill(const SearchConfig& config, const ModelConfig& teacher, int64_t most, bool asked) {
  if (config.distill.order == DistillOrder::depth_first || most == 1) return 1;
  if (!asked) return useful_ranks(config, teacher, most);
  distill_grid(config, teacher, most, {});
  return most;
}

/// At most one for each piece: a batch of sequences on the teacher, or on what begins with one of its layers.
int64_t ranks_of_score(const SearchConfig& config, const ModelConfig& teacher, int64_t most) {
  const int64_t sequences = std::max<int64_t>(1, config.score.tokens / config.data.sequence_length);
  const int64_t at_once = sequences_at_once(config, teacher, sequences, PlanMachine());
  const int64_t batches = (sequences + at_once - 1) / at_once;
  return std::min(most, batches * (teacher.num_hidden_layers + 1));
}

/// The student is not known yet: the teacher stands for it, which has at least as many blocks.
int64_t ranks_of_uptrain(const SearchConfig& config, const ModelConfig& teacher, int64_t most) {
  const TrainingConfig& training = config.uptrain.training;
  GkdOptions options = trainer_options<GkdOptions>(training);
  options.loss = config.uptrain.loss;
  options.teacher_layers.resize(size_t(teacher.num_hidden_layers));
  std::iota(options.teacher_layers.begin(), options.teacher_layers.end(), int64_t{0});
  const Batch batch = blank_batch(options.batch_tokens, config.data.sequence_length);
  const GkdCosts costs = gkd_costs(teacher_architecture(teacher), teacher, training.dtype, options, batch, Device::cpu);
  return uptrain_grid(costs, options.micro_batches, training.shards, most).shape().ranks();
}

}  // namespace

int64_t ranks_of_stage(const Stage& stage, const SearchConfig& config, const ModelConfig& teacher, int64_t most,
                       bool asked) {
  if (!stage.on_ranks || (stage.is_part_of && !stage.is_part_of(config))) return 1;
  if (stage.name == "distill") return ranks_of_distill(config, teacher, most, asked);
  if (stage.name == "score") return ranks_of_score(config, teacher, most);
  if (stage.name == "uptrain") return ranks_of_uptrain(config, teacher, most);
  return most;
}

}  // namespace tangram
