#include "nas/distill_grid.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "nas/stage_distill.h"
#include "nas/units.h"

namespace tangram {
namespace {

constexpr double kNearlyShortest = 1.01;

/// Units `by_size` of a stage in so many waves, the largest first to the one with least state.
std::vector<std::vector<size_t>> deal_out(std::vector<size_t> by_size, std::span<const BldUnit> units, size_t waves) {
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return units[a].state_bytes > units[b].state_bytes; });
  std::vector<std::vector<size_t>> dealt(waves);
  std::vector<int64_t> bytes(waves, 0);
  for (const size_t u : by_size) {
    const size_t least = static_cast<size_t>(std::min_element(bytes.begin(), bytes.end()) - bytes.begin());
    dealt[least].push_back(u);
    bytes[least] += units[u].state_bytes;
  }
  for (std::vector<size_t>& wave : dealt) std::sort(wave.begin(), wave.end());
  return dealt;
}

std::vector<size_t> of_stage(const BldStage& stage, std::span<const size_t> units) {
  std::vector<size_t> own;
  for (const size_t u : units)
    if (stage.first_unit <= u && u < stage.first_unit + stage.unit_count) own.push_back(u);
  return own;
}

class GridSearch {
 public:
  GridSearch(const SearchConfig& config, const ModelConfig& teacher, const RankLimits& limits,
             std::span<const std::vector<size_t>> begun)
      : config_(config),
        teacher_(teacher),
        limits_(limits),
        options_(bld_options(config)),
        replacements_(trained_replacements(config, teacher)),
        batch_(blank_batch(options_.batch_tokens, config.data.sequence_length)) {
    start_.units = units_of(replacements_);
    start_.layer_flops = add_costs(start_.units, replacements_, teacher, dtype(), options_, batch_, limits.device);
    groups_.resize(begun.size() + 1);
    for (size_t u = 0; u < start_.units.size(); ++u) {
      const auto of_unit = std::find_if(begun.begin(), begun.end(), [&](const std::vector<size_t>& places) {
        return std::find(places.begin(), places.end(), start_.units[u].places[0]) != places.end();
      });
      groups_[static_cast<size_t>(of_unit - begun.begin())].push_back(u);
    }
  }

  DistillGrid best(int64_t ranks) const {
    if (start_.units.empty()) throw bad_input("the search space has nothing to train");
    std::optional<DistillGrid> best;
    for (int64_t replicas = 1; replicas <= options_.shards && replicas <= ranks; replicas *= 2) {
      if (ranks % replicas != 0 || ranks / replicas > std::ssize(start_.units)) continue;
      DistillGrid grid = with(ranks / replicas, replicas);
      if (!grid.waves.empty() &&
          (!best || grid.slowest_flops(options_.micro_batches) < best->slowest_flops(options_.micro_batches)))
        best = std::move(grid);
    }
    if (best) return *best;
    refuse(ranks);
  }

  int64_t useful(int64_t most) const {
    const auto step_of = [&](int64_t stages, int64_t replicas) {
      return with(stages, replicas).slowest_flops(options_.micro_batches);
    };
    const auto most_stages = [&](int64_t replicas) { return std::min(most / replicas, std::ssize(start_.units)); };
    const int64_t most_replicas = std::min(options_.shards, most);
    double shortest = INFINITY;
    for (int64_t replicas = 1; replicas <= most_replicas; replicas *= 2)
      shortest = std::min(shortest, step_of(most_stages(replicas), replicas));
    int64_t fewest = most;
    for (int64_t replicas = 1; replicas <= most_replicas; replicas *= 2) {
      int64_t enough = most_stages(replicas);
      if (step_of(enough, replicas) > kNearlyShortest * shortest) continue;
      for (int64_t few = 0; enough - few > 1;) {  // few stages are too few: more stages never make a step longer
        const int64_t middle = (few + enough) / 2;
        (step_of(middle, replicas) <= kNearlyShortest * shortest ? enough : few) = middle;
      }
      fewest = std::min(fewest, enough * replicas);
    }
    return fewest;
  }

 private:
  DType dtype() const { return config_.distill.training.dtype; }

  /// Of this shape; without waves if it does not fit.
  DistillGrid with(int64_t stages, int64_t replicas) const {
    DistillGrid grid = start_;
    grid.replicas = replicas;
    grid.speeds = RankGrid{stages, replicas}.stage_speeds(limits_.speeds);
    grid.stages = cut_stages(grid.units, grid.layer_flops, grid.speeds);
    grid.balance = balance(grid.stages, grid.speeds);
    for (const std::vector<size_t>& group : groups_)
      if (!add_fitting_waves(grid, group)) {
        grid.waves.clear();
        return grid;
      }
    return grid;
  }

  /// As few as fit; false: not even one unit a stage does.
  bool add_fitting_waves(DistillGrid& grid, const std::vector<size_t>& group) const {
    size_t most_units = 0;
    for (const BldStage& stage : grid.stages) most_units = std::max(most_units, of_stage(stage, group).size());
    const size_t before = grid.waves.size();
    for (size_t waves = 1; waves <= most_units; ++waves) {
      grid.waves.resize(before);
      add_waves(grid, group, waves);
      if (fits(grid, before)) return true;
    }
    return group.empty();
  }

  bool fits(const DistillGrid& grid, size_t first_wave) const {
    if (!limits_.memory_bytes) return true;
    for (size_t w = first_wave; w < grid.waves.size(); ++w)
      for (size_t s = 0; s < grid.stages.size(); ++s)
        if (rank_memory_bytes(grid, w, s) > *limits_.memory_bytes) return false;
    return true;
  }

  int64_t rank_memory_bytes(const DistillGrid& grid, size_t wave, size_t stage) const {
    const BldPart part = planned_part(grid, wave, stage);
    // Stages with the same units on as many layers take the same: few have to be laid out.
    std::string shape = fmt::format("{} {} {}:", grid.replicas, part.end - part.begin, part.next_rank >= 0);
    for (const size_t place : part.places)
      shape += fmt::format(" {}-{}.{}", replacements_[place].first_layer - part.begin, replacements_[place].layer_count,
                           replacements_[place].name());
    const auto found = known_bytes_.find(shape);
    if (found != known_bytes_.end()) return found->second;
    return known_bytes_[shape] =
               rank_needs(grid, wave, stage, replacements_, config_, teacher_, limits_.device).bytes();
  }

  [[noreturn]] void refuse(int64_t ranks) const {
    if (limits_.memory_bytes && ranks <= std::ssize(start_.units) * options_.shards)
      throw Error(fmt::format("distill does not fit on {} ranks with {} each, not even with one variant group a wave; "
                              "take more ranks, smaller micro-batches (distill.micro_batches) or fewer variants",
                              ranks, format_bytes(double(*limits_.memory_bytes))),
                  Failure::infeasible);
    int64_t most = 0;
    for (int64_t n = 1; n < ranks; ++n)
      for (int64_t replicas = 1; replicas <= options_.shards && replicas <= n; replicas *= 2)
        if (n % replicas == 0 && n / replicas <= std::ssize(start_.units)) most = n;
    throw bad_input(
        "{} ranks for {} units of work (a layer's variants of one subblock, a pair or a span) in {} shards of each "
        "step: no grid of stages times replicas has so many; take {} ranks, or set distill.shards to a power of two "
        "that divides distill.micro_batches={}",
        ranks, start_.units.size(), options_.shards, most, options_.micro_batches);
  }

  const SearchConfig& config_;
  const ModelConfig& teacher_;
  const RankLimits limits_;
  const BldOptions options_;
  const std::vector<Replacement> replacements_;
  const Batch batch_;
  DistillGrid start_;
  std::vector<std::vector<size_t>> groups_;  // units that stand at the same step
  mutable std::map<std::string, int64_t> known_bytes_;
};

}  // namespace

void add_waves(DistillGrid& grid, std::span<const size_t> units, size_t count) {
  const size_t before = grid.waves.size();
  grid.waves.resize(before + count);
  for (const BldStage& stage : grid.stages) {
    const auto dealt = deal_out(of_stage(stage, units), grid.units, count);
    for (size_t w = 0; w < count; ++w) grid.waves[before + w].push_back(dealt[w]);
  }
}

std::vector<size_t> DistillGrid::places_of(size_t wave) const {
  std::vector<size_t> places;
  for (const std::vector<size_t>& of_stage : waves[wave])
    for (const size_t u : of_stage) places.insert(places.end(), units[u].places.begin(), units[u].places.end());
  std::sort(places.begin(), places.end());
  return places;
}

double DistillGrid::slowest_flops(int64_t micro_batches) const {
  double most = 0;
  for (size_t s = 0; s < stages.size(); ++s) {
    const double teacher = layer_flops * double(stages[s].end - stages[s].begin);
    most = std::max(most, (stages[s].flops + teacher * double(waves.size() - 1)) / speeds[s]);
  }
  return most * double(micro_batches) / double(replicas);
}

double DistillGrid::wave_flops(size_t wave, int64_t micro_batches) const {
  double flops = layer_flops * double(stages.back().end);
  for (const std::vector<size_t>& of_stage : waves[wave])
    for (const size_t u : of_stage) flops += units[u].flops;
  return flops * double(micro_batches);
}

int64_t useful_ranks(const SearchConfig& config, const ModelConfig& teacher, int64_t most) {
  const GridSearch search(config, teacher, {}, {});
  return search.useful(most);
}

DistillGrid distill_grid(const SearchConfig& config, const ModelConfig& teacher, int64_t ranks,
                         const RankLimits& limits, std::span<const std::vector<size_t>> begun) {
  return GridSearch(config, teacher, limits, begun).best(ranks);
}

BldPart planned_part(const DistillGrid& grid, size_t wave, size_t stage) {
  const BldStage& own = grid.stages[stage];
  BldPart part{.places = {}, .begin = own.begin, .end = own.end, .replicas = {.count = grid.replicas}};
  for (const size_t unit : grid.waves[wave][stage])
    part.places.insert(part.places.end(), grid.units[unit].places.begin(), grid.units[unit].places.end());
  std::sort(part.places.begin(), part.places.end());
  const auto s = static_cast<int64_t>(stage);
  if (s > 0) part.previous_rank = grid.shape().rank_of(s - 1, 0);
  if (stage + 1 < grid.stages.size()) {
    part.next_begin = grid.stages[stage + 1].begin;
    part.next_rank = grid.shape().rank_of(s + 1, 0);
  }
  return part;
}

RankNeeds rank_needs(const DistillGrid& grid, size_t wave, size_t stage, std::span<const Replacement> replacements,
                     const SearchConfig& config, const ModelConfig& teacher, Device device) {
  const DType dtype = config.distill.training.dtype;
  const BldOptions options = bld_options(config);
  const BldPart part = planned_part(grid, wave, stage);
  Arena layer = Arena::planner(device);
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    make_weights(teacher_choice(s, teacher), teacher, dtype, layer);
  const int64_t embedding = part.begin == 0 ? teacher.vocab_size * teacher.hidden_size * size_of(dtype) : 0;
  return {.teacher_bytes = (part.end - part.begin) * layer.used_bytes() + embedding,
          .plan = BldTrainer::plan(planned_teacher(teacher, dtype, device), replacements, options, part,
                                   blank_batch(options.batch_tokens, config.data.sequence_length), device, 0)};
}

BldPart part_of(const DistillGrid& grid, size_t wave, Communicator& world, Communicator& replicas) {
  BldPart part = planned_part(grid, wave, static_cast<size_t>(grid.shape().stage_of(world.rank())));
  const int replica = static_cast<int>(grid.shape().replica_of(world.rank()));
  part.replicas.index = replica;
  part.replicas.group = &replicas;
  part.world = &world;
  if (part.previous_rank >= 0) part.previous_rank += replica;
  if (part.next_rank >= 0) part.next_rank += replica;
  return part;
}

}  // namespace tangram
