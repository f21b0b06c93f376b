#include "puzzle/score_table.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace tangram {
namespace {

template <class T>
size_t index_of(const std::vector<T>& known, const std::string& what, const std::string& name) {
  for (size_t i = 0; i < known.size(); ++i)
    if (known[i].name == name) return i;
  std::vector<std::string> names;
  for (const T& item : known) names.push_back(item.name);
  throw unknown_name(what, name, names);
}

bool is_identifier(const std::string& text, bool with_dot) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || (with_dot && c == '.');
  });
}

// Control characters would end the text early in the file, or in a terminal.
bool is_plain_text(const std::string& text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; });
}

void check_row(const ScoreTable& table, const TableRow& row, const std::string& place) {
  // Written so that no sum can overflow.
  if (row.layer_count < 1 || row.first_layer < 0 || row.first_layer >= table.layer_count ||
      row.layer_count > table.layer_count - row.first_layer)
    throw bad_input("{}: replaces {} layers from {} on, of {}", place, row.layer_count, row.first_layer,
                    table.layer_count);
  for (const std::string& name : {row.attention, row.ffn})
    if (!name.empty() && !is_identifier(name, true))
      throw bad_input("{}: a variant is spelled with a-z, 0-9, '_' and '.', such as gqa_4", place);
  if (row.attention.empty() && row.ffn.empty()) throw bad_input("{}: replaces nothing", place);
  if (row.layer_count > 1 && (row.attention.empty() || row.ffn.empty()))
    throw bad_input("{}: one block for {} layers needs both its attention and its ffn", place, row.layer_count);
  if (row.values.size() != table.metrics.size() || row.standard_errors.size() != table.metrics.size() ||
      row.costs.size() != table.scenarios.size())
    throw bad_input("{}: has {} values, {} standard errors and costs of {} scenarios; must be {}, {} and {}", place,
                    row.values.size(), row.standard_errors.size(), row.costs.size(), table.metrics.size(),
                    table.metrics.size(), table.scenarios.size());
  for (const double error : row.standard_errors)
    if (error < 0) throw bad_input("{}: standard error {} is negative", place, error);
  if (row.parameters < 0 || std::isinf(row.parameters)) throw bad_input("{}: {} parameters", place, row.parameters);
}

void check_costs(const ScenarioCosts& costs, const std::string& place) {
  for (const double bytes : {costs.weight_bytes, costs.kv_cache_bytes, costs.workspace_bytes})
    if (bytes < 0 || std::isinf(bytes)) throw bad_input("{}: {} bytes", place, bytes);
  if (!std::isnan(costs.is_disturbed) && costs.is_disturbed != 0 && costs.is_disturbed != 1)
    throw bad_input("{}: is_disturbed is {}; must be 0 or 1", place, costs.is_disturbed);
  for (const double seconds : {costs.prefill_seconds, costs.decode_seconds})  // a measured difference may be below 0
    if (std::isinf(seconds)) throw bad_input("{}: {} seconds", place, seconds);
}

void check_source(const CostSource& source, const std::string& place) {
  if (!is_plain_text(source.name) || source.name.size() > 256)
    throw bad_input("{}: the source of its costs must be short plain text", place);
  for (const double factor : {source.prefill_factor, source.decode_factor})
    if (!(factor > 0) || std::isinf(factor))
      throw bad_input("{}: a whole model takes {} times the sum of its parts", place, factor);
  for (const double error : {source.prefill_error, source.decode_error})
    if (error < 0 || std::isinf(error)) throw bad_input("{}: relative error {}", place, error);
  if (!(source.disturbed_timings >= 0 && source.timings >= source.disturbed_timings && source.timings < 1e15))
    throw bad_input("{}: {} of {} timings were disturbed", place, source.disturbed_timings, source.timings);
}

}  // namespace

size_t metric_index(const ScoreTable& table, const std::string& name) {
  return index_of(table.metrics, "metric", name);
}
size_t scenario_index(const ScoreTable& table, const std::string& name) {
  return index_of(table.scenarios, "scenario", name);
}

size_t add_metric(ScoreTable& table, const TableMetric& metric) {
  size_t i = 0;
  while (i < table.metrics.size() && table.metrics[i].name != metric.name) ++i;
  if (i == table.metrics.size()) {
    table.metrics.emplace_back();
    for (TableRow& row : table.rows) row.values.push_back(kMissing), row.standard_errors.push_back(kMissing);
  }
  table.metrics[i] = metric;
  return i;
}

size_t add_scenario(ScoreTable& table, const Scenario& scenario) {
  size_t i = 0;
  while (i < table.scenarios.size() && table.scenarios[i].name != scenario.name) ++i;
  if (i < table.scenarios.size() && table.scenarios[i] == scenario) return i;
  if (i == table.scenarios.size()) {
    table.scenarios.emplace_back();
    for (TableRow& row : table.rows) row.costs.emplace_back();
    table.outside.emplace_back();
    table.workspace_bytes.push_back(kMissing);
    table.sources.emplace_back();
  }
  table.scenarios[i] = scenario;
  forget_costs(table, i);
  return i;
}

void forget_costs(ScoreTable& table, size_t scenario) {
  for (TableRow& row : table.rows) row.costs[scenario] = {};
  table.outside[scenario] = {};
  table.workspace_bytes[scenario] = kMissing;
  table.sources[scenario] = {};
}

void copy_costs(ScoreTable& table, const ScoreTable& from, size_t scenario) {
  const size_t index = add_scenario(table, from.scenarios[scenario]);
  table.outside[index] = from.outside[scenario];
  table.workspace_bytes[index] = from.workspace_bytes[scenario];
  table.sources[index] = from.sources[scenario];
  const auto key = [](const TableRow& row) {
    return std::tie(row.first_layer, row.layer_count, row.attention, row.ffn);
  };
  std::map<std::tuple<int64_t, int64_t, std::string, std::string>, const ScenarioCosts*> known;
  for (const TableRow& row : from.rows) known[key(row)] = &row.costs[scenario];
  for (TableRow& row : table.rows)
    if (const auto found = known.find(key(row)); found != known.end()) row.costs[index] = *found->second;
}

TableRow& row_of(ScoreTable& table, int64_t first_layer, int64_t layer_count, const std::string& attention,
                 const std::string& ffn) {
  for (TableRow& row : table.rows)
    if (row.first_layer == first_layer && row.layer_count == layer_count && row.attention == attention &&
        row.ffn == ffn)
      return row;
  TableRow row{.first_layer = first_layer, .layer_count = layer_count, .attention = attention, .ffn = ffn};
  row.values.assign(table.metrics.size(), kMissing);
  row.standard_errors = row.values;
  row.costs.resize(table.scenarios.size());
  check_row(table, row,
            fmt::format("replacement {}-{} '{}' '{}'", first_layer, first_layer + layer_count - 1, attention, ffn));
  return table.rows.emplace_back(std::move(row));
}

TableRow& row_of(ScoreTable& table, const Replacement& replacement) {
  const auto name = [](const std::optional<Choice>& choice) { return choice ? choice->name() : std::string(); };
  return row_of(table, replacement.first_layer, replacement.layer_count, name(replacement.attention),
                name(replacement.ffn));
}

Replacement replacement_of(const TableRow& row, const ModelConfig& config) {
  Replacement replacement{.first_layer = row.first_layer, .layer_count = row.layer_count, .attention = {}, .ffn = {}};
  if (!row.attention.empty()) replacement.attention = parse_choice(Subblock::attention, row.attention, config);
  if (!row.ffn.empty()) replacement.ffn = parse_choice(Subblock::ffn, row.ffn, config);
  return replacement;
}

void check_table(const ScoreTable& table, const std::string& source) {
  if (table.layer_count < 1 || table.layer_count > 1'000'000)
    throw bad_input("{}: {} layers; must be 1 to 1000000", source, table.layer_count);
  const size_t S = table.scenarios.size();
  if (table.outside.size() != S || table.workspace_bytes.size() != S || table.sources.size() != S)
    throw bad_input("{}: costs outside the blocks for {}, workspace for {} and sources for {} scenarios; must be {}",
                    source, table.outside.size(), table.workspace_bytes.size(), table.sources.size(), S);
  std::set<std::string> names;
  for (const TableMetric& metric : table.metrics) {
    if (!is_identifier(metric.name, false) || !is_plain_text(metric.units))
      throw bad_input("{}: metric '{}' must be spelled with a-z, 0-9 and '_'", source, metric.name);
    if (!names.insert(metric.name).second) throw bad_input("{}: metric '{}' is there twice", source, metric.name);
  }
  names.clear();
  for (size_t s = 0; s < table.scenarios.size(); ++s) {
    const Scenario& scenario = table.scenarios[s];
    const std::string place = fmt::format("{}: scenario '{}'", source, scenario.name);
    if (scenario.name.empty() || !is_plain_text(scenario.name)) throw bad_input("{} needs a printable name", place);
    if (!names.insert(scenario.name).second) throw bad_input("{} is there twice", place);
    for (const int64_t n : {scenario.input_tokens, scenario.output_tokens, scenario.concurrency})
      if (n < 0 || n > int64_t{1} << 40) throw bad_input("{}: {} is no count of tokens or sequences", place, n);
    if (scenario.tensor_parallel < 1 || scenario.tensor_parallel > 1 << 20)
      throw bad_input("{}: {} is no count of devices", place, scenario.tensor_parallel);
    check_source(table.sources[s], place);
    check_costs(table.outside[s], place);
    if (table.workspace_bytes[s] < 0 || std::isinf(table.workspace_bytes[s]))
      throw bad_input("{}: {} bytes of workspace", place, table.workspace_bytes[s]);
  }
  std::set<std::tuple<int64_t, int64_t, std::string, std::string>> keys;
  std::set<std::pair<int64_t, Subblock>> own;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const TableRow& row = table.rows[i];
    const std::string place = fmt::format("{}: replacement {}", source, i);
    check_row(table, row, place);
    for (const ScenarioCosts& costs : row.costs) check_costs(costs, place);
    if (!keys.insert({row.first_layer, row.layer_count, row.attention, row.ffn}).second)
      throw bad_input("{} ({} {} of layer {}) is there twice", place, row.attention, row.ffn, row.first_layer);
    if (!row.teacher) continue;
    if (row.layer_count > 1) throw bad_input("{}: the teacher's own are rows of one layer each", place);
    for (const Subblock subblock : {Subblock::attention, Subblock::ffn})
      if (!(subblock == Subblock::attention ? row.attention : row.ffn).empty() &&
          !own.insert({row.first_layer, subblock}).second)
        throw bad_input("{}: layer {} has two teacher's {}", place, row.first_layer, name_of(subblock));
  }
  for (const auto& [name, value] : table.attributes)
    if (!is_identifier(name, false) || !is_plain_text(value) || value.size() > 32768)
      throw bad_input("{}: attribute '{}' must be short plain text, its name spelled with a-z, 0-9 and '_'", source,
                      name);
}

}  // namespace tangram
