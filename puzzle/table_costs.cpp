#include "puzzle/table_costs.h"

#include <algorithm>
#include <cmath>

namespace tangram {
namespace {

std::vector<Choice> choices_of(const Replacement& r) {
  std::vector<Choice> choices;
  for (const Subblock s : {Subblock::attention, Subblock::ffn})
    if (r.of(s)) choices.push_back(*r.of(s));
  return choices;
}

// The single subblocks that a table has for a layer, the teacher's own first.
std::vector<Choice> variants_of_layer(const ScoreTable& table, int64_t layer, Subblock subblock,
                                      const ModelConfig& config) {
  std::vector<Choice> variants;
  for (const TableRow& row : table.rows) {
    if (row.first_layer != layer || row.layer_count != 1) continue;
    const std::string& name = subblock == Subblock::attention ? row.attention : row.ffn;
    const std::string& other = subblock == Subblock::attention ? row.ffn : row.attention;
    if (!name.empty() && other.empty()) variants.push_back(parse_choice(subblock, name, config));
  }
  return variants;
}

// Factor of `wholes` over `sums` and its relative error bar.
std::pair<double, double> factor_of(std::span<const Runtime> sums, std::span<const Runtime> wholes,
                                    double Runtime::*member) {
  constexpr double kLeastError = 0.01;  // no measurement repeats better
  std::vector<double> ratios;
  for (size_t i = 0; i < sums.size(); ++i)
    if (sums[i].*member > 0 && wholes[i].*member > 0) ratios.push_back(std::log(wholes[i].*member / sums[i].*member));
  if (ratios.empty()) return {1, kMissing};
  double mean = 0, worst = kLeastError;
  for (const double r : ratios) mean += r / double(ratios.size());
  for (const double r : ratios) worst = std::max(worst, std::expm1(std::abs(r - mean)));
  return {std::exp(mean), worst};
}

}  // namespace

void fill_costs(TableRow& row, const ScoreTable& table, size_t scenario, const ModelConfig& config,
                const std::function<Runtime(const Choice&)>& time_of) {
  const Scenario& s = table.scenarios[scenario];
  ScenarioCosts costs{.weight_bytes = 0, .kv_cache_bytes = 0, .prefill_seconds = 0, .decode_seconds = 0};
  row.parameters = 0;
  for (const Choice& choice : choices_of(replacement_of(row, config))) {
    const Runtime time = time_of(choice);
    row.parameters += subblock_parameters(choice, config);
    costs.weight_bytes += weight_bytes(choice, config, s);
    costs.kv_cache_bytes += kv_cache_bytes(choice, config, s);
    costs.prefill_seconds += time.prefill_seconds;
    costs.decode_seconds += time.decode_seconds;
  }
  costs.workspace_bytes = row.costs[scenario].workspace_bytes;
  costs.is_disturbed = row.costs[scenario].is_disturbed;
  row.costs[scenario] = costs;
}

void fill_outside(ScoreTable& table, size_t scenario, const ModelConfig& config, const Runtime& time) {
  const Scenario& s = table.scenarios[scenario];
  table.outside_parameters = outside_parameters(config);
  table.outside[scenario] = {.weight_bytes = outside_bytes(config, s),
                             .kv_cache_bytes = 0,
                             .prefill_seconds = time.prefill_seconds,
                             .decode_seconds = time.decode_seconds,
                             .is_disturbed = table.outside[scenario].is_disturbed};
}

void fill_workspace(ScoreTable& table, size_t scenario, const ModelConfig& config,
                    const std::function<double(const Choice&)>& workspace_of) {
  std::vector<std::pair<Choice, double>> known;  // few kinds of subblocks, many layers
  const auto of = [&](const Choice& choice) {
    const auto found = std::find_if(known.begin(), known.end(), [&](const auto& k) { return k.first == choice; });
    return found != known.end() ? found->second : known.emplace_back(choice, workspace_of(choice)).second;
  };
  double most = 0;
  for (const Subblock s : {Subblock::attention, Subblock::ffn}) most = std::max(most, of(teacher_choice(s, config)));
  for (TableRow& row : table.rows) {
    double own = 0;
    for (const Choice& choice : choices_of(replacement_of(row, config))) own = std::max(own, of(choice));
    row.costs[scenario].workspace_bytes = own;
    most = std::max(most, own);
  }
  table.workspace_bytes[scenario] = most;
}

bool model_costs(ScoreTable& table, const Scenario& scenario, const ModelConfig& config, const Hardware& hardware,
                 const std::string& source) {
  check_hardware(hardware, scenario);
  const size_t index = add_scenario(table, scenario);
  if (table.sources[index].name != source) forget_costs(table, index);
  const auto is_complete = [&](const TableRow& row) { return !std::isnan(row.costs[index].decode_seconds); };
  if (table.sources[index].name == source && std::all_of(table.rows.begin(), table.rows.end(), is_complete))
    return false;
  std::vector<std::pair<Choice, Runtime>> known;
  const auto time_of = [&](const Choice& choice) {
    const auto found = std::find_if(known.begin(), known.end(), [&](const auto& k) { return k.first == choice; });
    if (found != known.end()) return found->second;
    const ModelledTime time = model_subblock(choice, config, scenario, hardware);
    return known.emplace_back(choice, Runtime{time.prefill.total(), time.decode.total()}).second;
  };
  for (TableRow& row : table.rows) fill_costs(row, table, index, config, time_of);
  const ModelledTime outside = model_outside(config, scenario, hardware);
  fill_outside(table, index, config, {outside.prefill.total(), outside.decode.total()});
  fill_workspace(table, index, config, [&](const Choice& choice) {
    return workspace_bytes(choice, config, scenario, hardware.prefill_tokens);
  });
  const ModelledTime teacher = model_whole(teacher_architecture(config), config, scenario, hardware);
  table.sources[index] = {.name = source, .prefill_error = relative_error(teacher.prefill, hardware)};
  if (teacher.decode.total() > 0) table.sources[index].decode_error = relative_error(teacher.decode, hardware);
  return true;
}

std::vector<Architecture> sample_architectures(const ScoreTable& table, const ModelConfig& config) {
  std::vector<Architecture> samples = {teacher_architecture(config)};
  Architecture mixed = samples[0];
  for (size_t layer = 0; layer < mixed.size(); ++layer)
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      if (const auto variants = variants_of_layer(table, int64_t(layer), s, config); !variants.empty())
        mixed[layer].of(s) = variants[layer % variants.size()];
  if (mixed != samples[0]) samples.push_back(mixed);
  return samples;
}

Runtime sum_of_parts(const Architecture& architecture, const ScoreTable& table, size_t scenario) {
  Runtime sum{table.outside[scenario].prefill_seconds, table.outside[scenario].decode_seconds};
  for (size_t layer = 0; layer < architecture.size(); ++layer)
    for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
      const std::string name = architecture[layer].of(s).name();
      const auto row = std::find_if(table.rows.begin(), table.rows.end(), [&](const TableRow& r) {
        return r.first_layer == int64_t(layer) && r.layer_count == 1 &&
               r.attention == (s == Subblock::attention ? name : "") && r.ffn == (s == Subblock::ffn ? name : "");
      });
      CHECK(row != table.rows.end(), "the table has no {} of layer {}", name, layer);
      sum.prefill_seconds += row->costs[scenario].prefill_seconds;
      sum.decode_seconds += row->costs[scenario].decode_seconds;
    }
  return sum;
}

void learn_correction(CostSource& source, std::span<const Runtime> sums, std::span<const Runtime> wholes) {
  std::tie(source.prefill_factor, source.prefill_error) = factor_of(sums, wholes, &Runtime::prefill_seconds);
  std::tie(source.decode_factor, source.decode_error) = factor_of(sums, wholes, &Runtime::decode_seconds);
}

}  // namespace tangram
