#include "distill/placement.h"

#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "distill/teacher_source.h"

namespace tangram {
namespace {

/// Of units [first, last), with what they need of the teacher.
BldStage stage_of(std::span<const BldUnit> units, size_t first, size_t last, double layer_flops) {
  BldStage stage{.first_unit = first, .unit_count = last - first, .begin = units[first].input_layer};
  for (const BldUnit& unit : units.subspan(first, last - first)) {
    stage.begin = std::min(stage.begin, unit.input_layer);
    stage.end = unit.layer + 1;
    stage.flops += unit.flops;
  }
  stage.flops += layer_flops * double(stage.end - stage.begin);
  return stage;
}

}  // namespace

std::vector<BldUnit> units_of(std::span<const Replacement> replacements) {
  enum Kind { kAttention, kFfn, kWhole };
  // Plain variants of a subblock share a unit; a whole block is one by itself, told apart by its place.
  std::map<std::tuple<int64_t, Kind, size_t>, BldUnit> units;
  for (size_t place = 0; place < replacements.size(); ++place) {
    const Replacement& r = replacements[place];
    const Kind kind = r.attention && r.ffn ? kWhole : r.attention ? kAttention : kFfn;
    BldUnit& unit = units[{r.last_layer(), kind, kind == kWhole ? place : 0}];
    unit.layer = r.last_layer(), unit.input_layer = r.first_layer;
    unit.places.push_back(place);
  }
  std::vector<BldUnit> in_order;
  for (auto& [key, unit] : units) in_order.push_back(std::move(unit));
  return in_order;
}

double add_costs(std::span<BldUnit> units, std::span<const Replacement> replacements, const ModelConfig& teacher,
                 DType dtype, const BldOptions& options, const Batch& batch, Device device) {
  const TeacherSource source = planned_teacher(teacher, dtype, device);
  // A unit like `like`, of these places, on one micro-batch; with its teacher's forward pass.
  const auto planned = [&](const BldUnit& like, std::span<const size_t> places) {
    Context planning({.device = device, .planning = true});
    Arena state = Arena::planner(device), gradients = Arena::planner(device), work = Arena::planner(device);
    Replicas alone;
    BldLayer layer(like.layer, replacements, places, teacher, dtype, options, alone, state);
    layer.begin_step(gradients, work);
    const Tensor stream = work.tensor(options.batch_tokens, teacher.hidden_size, dtype);
    const std::vector<Tensor> earlier(static_cast<size_t>(layer.reach()), stream);
    const SequenceBatch sequences(teacher, batch.lengths, {}, work, planning);
    layer.train(stream, earlier, sequences.view(), source.layer(like.layer, planning), work, planning);
    BldPlan plan;
    layer.add_to(plan);
    return BldUnit{.layer = 0,
                   .input_layer = 0,
                   .places = {},
                   .flops = planning.matmul_flops + planning.attention_flops,
                   .state_bytes = state.used_bytes(),
                   .weight_bytes = plan.weight_bytes,
                   .gradient_bytes = gradients.used_bytes()};
  };
  if (units.empty()) return 0;
  const double layer_flops = planned(units[0], {}).flops;
  std::map<std::string, BldUnit> known;  // units of the same variants cost the same on every layer
  for (BldUnit& unit : units) {
    std::string name;
    for (const size_t place : unit.places)
      name += fmt::format("{} {};", replacements[place].layer_count, replacements[place].name());
    auto found = known.find(name);
    if (found == known.end()) found = known.emplace(name, planned(unit, unit.places)).first;
    unit.flops = found->second.flops - layer_flops;
    unit.state_bytes = found->second.state_bytes;
    unit.weight_bytes = found->second.weight_bytes;
    unit.gradient_bytes = found->second.gradient_bytes;
  }
  return layer_flops;
}

std::vector<BldStage> cut_stages(std::span<const BldUnit> units, double layer_flops, std::span<const double> speeds) {
  const size_t count = units.size(), stages = speeds.size();
  if (stages > count)
    throw bad_input("{} stages of {} units of work: more ranks than work; take at most {}, or more shards", stages,
                    count, count);
  // best[s][u]: the longest time of a step when the first s stages have the first u units; cut[s][u]: where the last of
  // them begins.
  const double never = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> best(stages + 1, std::vector<double>(count + 1, never));
  std::vector<std::vector<size_t>> cut(stages + 1, std::vector<size_t>(count + 1, 0));
  best[0][0] = 0;
  for (size_t s = 1; s <= stages; ++s)
    for (size_t u = s; u + (stages - s) <= count; ++u)
      for (size_t first = u; first-- >= s;) {
        const double own = stage_of(units, first, u, layer_flops).flops / speeds[s - 1];
        const double longest = std::max(best[s - 1][first], own);
        if (longest < best[s][u]) best[s][u] = longest, cut[s][u] = first;
        if (own >= best[s][u]) break;  // an earlier cut only makes this stage longer
      }
  std::vector<BldStage> result(stages);
  size_t last = count;
  for (size_t s = stages; s > 0; --s) {
    result[s - 1] = stage_of(units, cut[s][last], last, layer_flops);
    last = cut[s][last];
  }
  // What a stage reads has to pass through the one before it, also where a span reaches back beyond that one.
  for (size_t s = stages; s-- > 0;) {
    BldStage& stage = result[s];
    if (s + 1 < stages && result[s + 1].begin < stage.begin) {
      stage.flops += layer_flops * double(stage.begin - result[s + 1].begin);
      stage.begin = result[s + 1].begin;
    }
  }
  result[0].flops += layer_flops * double(result[0].begin);
  result[0].begin = 0;  // it embeds the tokens
  return result;
}

}  // namespace tangram
