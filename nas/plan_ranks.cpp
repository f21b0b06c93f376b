#include "nas/plan_ranks.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "nas/stage_distill.h"
#include "nas/table.h"
#include "nas/training_loop.h"

namespace tangram {
namespace {

/// Bytes of gradients that the rank of a stage which sends most sends in a step: of every student that another replica
/// owns, in f32; and of weights, of every student that it owns to all others.
double exchanged_bytes(const DistillGrid& grid, const BldStage& stage, DType dtype) {
  double parameters = 0;
  for (size_t u = stage.first_unit; u < stage.first_unit + stage.unit_count; ++u)
    parameters += double(grid.units[u].weight_bytes) / double(size_of(dtype));
  const double others = double(grid.replicas - 1) / double(grid.replicas);
  return parameters * others * double(size_of(DType::f32) + size_of(dtype));
}

class RanksPlanner {
 public:
  RanksPlanner(const SearchConfig& config, const ModelConfig& teacher, const PlanMachine& gpu, int64_t ranks)
      : config_(config), training_(config.distill.training), teacher_(teacher), gpu_(gpu), ranks_(ranks) {}

  /// With the config's shards, and which other number would be faster: sums over more of them let more replicas share
  /// the tokens, and take memory where a rank has several.
  RanksPlan plan() const {
    std::optional<RanksPlan> own, best;
    std::optional<Error> refusal;
    for (int64_t shards = 1; shards <= ranks_ || shards <= training_.shards; shards *= 2) {
      if (training_.batch_tokens % (shards * config_.data.sequence_length) != 0) break;
      SearchConfig config = config_;
      TrainingConfig& training = config.distill.training;
      training.shards = shards;
      training.micro_batches = std::max(training_.micro_batches, shards);
      if (training.micro_batches % shards != 0) continue;
      try {
        RanksPlan plan = plan_with(config);
        plan.advice = fmt::format("distill.shards={} distill.micro_batches={}", shards, training.micro_batches);
        if (shards == training_.shards) own = plan;
        if (!best || plan.seconds < best->seconds) best = std::move(plan);
      } catch (const Error& e) {
        if (shards == training_.shards) refusal = e;
      }
    }
    if (!best) throw *refusal;
    if (!own) {
      best->advice = fmt::format("set {}; as it stands: {}", best->advice, refusal->what());
      return *best;
    }
    own->advice = best->seconds < 0.95 * own->seconds
                      ? fmt::format("{} takes {}", best->advice, format_seconds(best->seconds))
                      : "";
    return *own;
  }

 private:
  RanksPlan plan_with(const SearchConfig& config) const {
    const TrainingConfig& training = config.distill.training;
    RanksPlan plan;
    plan.ranks = ranks_;
    plan.grid = distill_grid(config, teacher_, ranks_,
                             {.memory_bytes = gpu_.memory_bytes - gpu_.resident_bytes, .device = gpu_.device});
    const DistillGrid& grid = plan.grid;
    plan.steps = double(steps_of(training));
    plan.tokens = plan.steps * double(training.batch_tokens);
    const double waves = double(grid.waves.size());
    const double rate = gpu_.flops(training.dtype),
                 micro_batches = double(training.micro_batches) / double(grid.replicas);
    plan.boundary_bytes = double(training.batch_tokens) / double(grid.replicas) * double(teacher_.hidden_size) *
                          double(size_of(training.dtype));
    std::vector<StageTimes> times;
    double busy = 0;
    for (size_t s = 0; s < grid.stages.size(); ++s) {
      const BldStage& stage = grid.stages[s];
      const double layer = grid.layer_flops * micro_batches / rate;
      const double teacher = layer * double(stage.end - stage.begin);
      const double of_stage = stage.flops * micro_batches / rate;     // in one wave
      const double in_wave = teacher + (of_stage - teacher) / waves;  // of several
      const double exchanged = exchanged_bytes(grid, stage, training.dtype);
      plan.gradient_bytes = std::max(plan.gradient_bytes, exchanged / waves);
      const double network = exchanged / waves / gpu_.network_bytes;
      const double step = std::max(in_wave, network);
      plan.stage_seconds.push_back(in_wave * waves);
      const bool is_last = s + 1 == grid.stages.size();
      const double share =
          is_last ? 1 : double(grid.stages[s + 1].begin - stage.begin) / double(stage.end - stage.begin);
      times.push_back(
          {.compute = step, .until_send = step * share, .transfer = plan.boundary_bytes / gpu_.network_bytes});
      busy += in_wave * plan.steps * waves;
    }
    const std::vector<double> ends = simulate_pipeline(times, int64_t(plan.steps));
    plan.seconds = waves * *std::max_element(ends.begin(), ends.end());
    plan.utilisation = busy / (plan.seconds * double(grid.stages.size()));
    plan.limited_by = what_limits(plan, times);
    plan.heaviest = heaviest_rank(config, grid);
    return plan;
  }

  static std::string what_limits(const RanksPlan& plan, const std::vector<StageTimes>& times) {
    const auto slowest = size_t(std::max_element(times.begin(), times.end(),
                                                 [](const auto& a, const auto& b) { return a.compute < b.compute; }) -
                                times.begin());
    const double computes = plan.stage_seconds[slowest] / double(plan.grid.waves.size());
    if (times[slowest].compute > computes * 1.0001) return "the network between the replicas of a stage";
    const auto transfers = std::max_element(times.begin(), times.end(),
                                            [](const auto& a, const auto& b) { return a.transfer < b.transfer; });
    if (times.size() > 1 && transfers->transfer > times[slowest].compute) return "the network between stages";
    return fmt::format("computation of stage {}", slowest);
  }

  StagePlan heaviest_rank(const SearchConfig& config, const DistillGrid& grid) const {
    const std::vector<Replacement> replacements = trained_replacements(config, teacher_);
    RankNeeds most;
    for (size_t s = 0; s < grid.stages.size(); ++s)
      for (size_t w = 0; w < grid.waves.size(); ++w) {
        const RankNeeds needs = rank_needs(grid, w, s, replacements, config, teacher_, gpu_.device);
        if (needs.bytes() > most.bytes()) most = needs;
      }
    const BldPlan& plan = most.plan;
    const int64_t optimiser = plan.master_bytes + plan.moment_bytes;
    StagePlan stage;
    stage.memory = {{"teacher's layers", most.teacher_bytes},
                    {"variants' parameters", plan.weight_bytes},
                    {"f32 masters and moments", optimiser},
                    {"gradients", plan.gradient_arena_bytes[0] + plan.gradient_arena_bytes[1]},
                    {"activations and links", plan.state_bytes + plan.work_bytes - plan.weight_bytes - optimiser},
                    {"workspace of operations", plan.scratch_bytes},
                    {"context and libraries", gpu_.resident_bytes}};
    return stage;
  }

  const SearchConfig& config_;
  const TrainingConfig& training_;
  const ModelConfig& teacher_;
  const PlanMachine& gpu_;
  const int64_t ranks_;
};

}  // namespace

RanksPlan plan_ranks(const SearchConfig& config, const ModelConfig& teacher, const PlanMachine& gpu, int64_t ranks) {
  return RanksPlanner(config, teacher, gpu, ranks).plan();
}

std::vector<double> simulate_pipeline(std::span<const StageTimes> stages, int64_t steps) {
  const size_t count = stages.size();
  std::vector<double> end(count, 0), begin_before(count, 0);  // of the step before
  for (int64_t step = 0; step < steps; ++step) {
    double input = 0;  // when this step's input is there
    for (size_t s = 0; s < count; ++s) {
      const double begin = std::max(end[s], input);
      const double computed = begin + stages[s].until_send;
      end[s] = begin + stages[s].compute;
      if (s + 1 < count) {
        // The next stage takes it in as soon as it has begun the step before.
        const double taken = step > 0 ? begin_before[s + 1] : 0;
        input = std::max(computed, taken) + stages[s].transfer;
      }
      begin_before[s] = begin;
    }
  }
  return end;
}

std::string ranks_text(const RanksPlan& plan, const PlanMachine& gpu) {
  const DistillGrid& grid = plan.grid;
  std::string text = fmt::format(
      "distill on {} x {}: {} stages x {} replicas{}; {:.0f} % balanced\n", plan.ranks, gpu.name, grid.stages.size(),
      grid.replicas, grid.waves.size() > 1 ? fmt::format(", {} waves over the text", grid.waves.size()) : "",
      100 * grid.balance);
  Table memory{.header = {"memory of the heaviest rank", "bytes"}, .rows = {}};
  for (const PlanPart& part : plan.heaviest.memory)
    memory.rows.push_back({"  " + part.name, format_bytes(double(part.bytes))});
  memory.rows.push_back({plan.heaviest.fits(gpu) ? "  in all" : "  in all: DOES NOT FIT",
                         format_bytes(double(total_bytes(plan.heaviest.memory)))});
  text += format_table(memory);
  text += fmt::format("{} tokens/s, {} for {} tokens, {} GPU-hours; ranks compute {:.1f} % of the time (simulated)\n",
                      format_count(plan.tokens / plan.seconds), format_seconds(plan.seconds), format_count(plan.tokens),
                      format_count(plan.seconds / 3600 * double(plan.ranks)), 100 * plan.utilisation);
  if (plan.ranks > 1)
    text += fmt::format(
        "network, a step: {} from each rank to the next stage, at most {} from a rank to its replicas; "
        "{}/s a GPU are taken for granted\n",
        format_bytes(plan.boundary_bytes * (grid.stages.size() > 1 ? 1 : 0)), format_bytes(plan.gradient_bytes),
        format_bytes(gpu.network_bytes));
  text += fmt::format("limited by {}\n", plan.limited_by);
  if (!plan.advice.empty()) text += fmt::format("better: {}\n", plan.advice);
  return text;
}

std::string ranks_json(const RanksPlan& plan, const PlanMachine& gpu) {
  nlohmann::ordered_json memory = nlohmann::ordered_json::object();
  for (const PlanPart& part : plan.heaviest.memory) memory[part.name] = part.bytes;
  nlohmann::ordered_json stages = nlohmann::ordered_json::array();
  for (size_t s = 0; s < plan.grid.stages.size(); ++s)
    stages.push_back({{"layers", {plan.grid.stages[s].begin, plan.grid.stages[s].end}},
                      {"units", plan.grid.stages[s].unit_count},
                      {"seconds_a_step", plan.stage_seconds[s]}});
  const nlohmann::ordered_json json = {{"gpu", gpu.name},
                                       {"ranks", plan.ranks},
                                       {"replicas", plan.grid.replicas},
                                       {"waves", plan.grid.waves.size()},
                                       {"balance", plan.grid.balance},
                                       {"memory_bytes", memory},
                                       {"fits", plan.heaviest.fits(gpu)},
                                       {"tokens_per_s", plan.tokens / plan.seconds},
                                       {"seconds", plan.seconds},
                                       {"gpu_hours", plan.seconds / 3600 * double(plan.ranks)},
                                       {"utilisation", plan.utilisation},
                                       {"boundary_bytes_a_step", plan.boundary_bytes},
                                       {"gradient_bytes_a_step", plan.gradient_bytes},
                                       {"limited_by", plan.limited_by},
                                       {"advice", plan.advice},
                                       {"stages", stages}};
  return json.dump(2) + "\n";
}

}  // namespace tangram
