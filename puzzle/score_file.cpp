#include <algorithm>
#include <array>

#include "puzzle/hdf5.h"
#include "puzzle/score_table.h"

namespace tangram {
namespace {

constexpr const char* kFormat = "tangram scores 1";

using Attributes = std::map<std::string, std::string>;

struct CostColumn {
  const char* name;
  const char* units;
  double ScenarioCosts::*member;
};
constexpr std::array<CostColumn, 4> kCosts = {{{"weight_bytes", "byte", &ScenarioCosts::weight_bytes},
                                               {"kv_cache_bytes", "byte", &ScenarioCosts::kv_cache_bytes},
                                               {"prefill_seconds", "s", &ScenarioCosts::prefill_seconds},
                                               {"decode_seconds", "s", &ScenarioCosts::decode_seconds}}};

// What older files lack; the workspace is of rows alone.
constexpr CostColumn kWorkspace = {"subblock_workspace_bytes", "byte", &ScenarioCosts::workspace_bytes};
constexpr CostColumn kDisturbed = {"is_disturbed", "1", &ScenarioCosts::is_disturbed};

struct SourceColumn {
  const char* name;
  const char* long_name;
  double CostSource::*member;
};
constexpr std::array<SourceColumn, 4> kSourceColumns = {
    {{"prefill_factor", "a whole model's time, in sums of its parts'", &CostSource::prefill_factor},
     {"decode_factor", "a whole model's time, in sums of its parts'", &CostSource::decode_factor},
     {"prefill_error", "relative error bar of a whole model's time", &CostSource::prefill_error},
     {"decode_error", "relative error bar of a whole model's time", &CostSource::decode_error}}};

constexpr std::array<SourceColumn, 2> kTimingColumns = {
    {{"timings", "timings that the times are made of", &CostSource::timings},
     {"disturbed_timings", "of these, taken on a busy machine", &CostSource::disturbed_timings}}};

template <class T, class Item, class F>
std::vector<T> column(const std::vector<Item>& items, F&& value) {
  std::vector<T> values;
  for (const Item& item : items) values.push_back(static_cast<T>(value(item)));
  return values;
}

std::string label_of(const TableRow& row) {
  const std::string layers = row.layer_count == 1
                                 ? fmt::format("{}", row.first_layer)
                                 : fmt::format("{}-{}", row.first_layer, row.first_layer + row.layer_count - 1);
  if (row.ffn.empty()) return layers + "/attention-" + row.attention;
  if (row.attention.empty()) return layers + "/ffn-" + row.ffn;
  return fmt::format("{}/block-{}-{}", layers, row.attention, row.ffn);
}

void put_rows(Hdf5Writer& file, const ScoreTable& table) {
  const auto& rows = table.rows;
  const Hdf5Writer::Dimensions by_row = {"replacement"};
  file.put("replacement", by_row, column<std::string>(rows, label_of),
           {{"long_name", "layers and their new subblocks"}});
  file.put("first_layer", by_row, column<int64_t>(rows, [](auto& r) { return r.first_layer; }));
  file.put("layer_count", by_row, column<int64_t>(rows, [](auto& r) { return r.layer_count; }));
  file.put("attention", by_row, column<std::string>(rows, [](auto& r) { return r.attention; }),
           {{"long_name", "new attention; empty: the teacher's stays"}});
  file.put("ffn", by_row, column<std::string>(rows, [](auto& r) { return r.ffn; }),
           {{"long_name", "new FFN; empty: the teacher's stays"}});
  file.put("is_teacher", by_row, column<int64_t>(rows, [](auto& r) { return r.teacher; }),
           {{"long_name", "1: the teacher's own subblock"}});
  file.put("is_scored", by_row, column<int64_t>(rows, [](auto& r) { return r.scored; }),
           {{"long_name", "1: scored; 0: values are sums of its parts'"}});
  file.put("parameters", by_row, column<double>(rows, [](auto& r) { return r.parameters; }), {{"units", "1"}});
}

// One subblock's replacements of single layers as a grid, a row a layer and a column a variant.
void put_grid(Hdf5Writer& file, const ScoreTable& table, Subblock subblock) {
  const auto name = [&](const TableRow& row) -> const std::string& {
    return subblock == Subblock::attention ? row.attention : row.ffn;
  };
  const auto belongs = [&](const TableRow& row) {
    return !name(row).empty() && (row.attention.empty() || row.ffn.empty());  // so of one layer, too
  };
  std::vector<std::string> variants;
  for (const TableRow& row : table.rows)
    if (belongs(row) && std::find(variants.begin(), variants.end(), name(row)) == variants.end())
      variants.push_back(name(row));
  if (variants.empty()) return;

  const std::string prefix(name_of(subblock)), dimension = prefix + "_variant";
  file.put(dimension, {dimension}, variants);
  for (size_t m = 0; m < table.metrics.size(); ++m) {
    std::vector<double> grid(static_cast<size_t>(table.layer_count) * variants.size(), kMissing);
    for (const TableRow& row : table.rows)
      if (belongs(row)) {
        const auto at = std::find(variants.begin(), variants.end(), name(row)) - variants.begin();
        grid[static_cast<size_t>(row.first_layer) * variants.size() + static_cast<size_t>(at)] = row.values[m];
      }
    file.put(prefix + "_" + table.metrics[m].name, {"layer", dimension}, grid, {{"units", table.metrics[m].units}});
  }
}

void put_metrics(Hdf5Writer& file, const ScoreTable& table) {
  const auto& metrics = table.metrics;
  if (metrics.empty()) return;
  file.put("metric", {"metric"}, column<std::string>(metrics, [](auto& m) { return m.name; }));
  file.put("metric_units", {"metric"}, column<std::string>(metrics, [](auto& m) { return m.units; }));
  file.put("higher_is_better", {"metric"}, column<int64_t>(metrics, [](auto& m) { return m.higher_is_better; }));
  file.put("teacher_value", {"metric"}, column<double>(metrics, [](auto& m) { return m.teacher; }),
           {{"long_name", "units: metric_units"}});
  if (table.rows.empty()) return;
  std::vector<double> values, errors;
  for (const TableRow& row : table.rows) {
    values.insert(values.end(), row.values.begin(), row.values.end());
    errors.insert(errors.end(), row.standard_errors.begin(), row.standard_errors.end());
  }
  const Attributes of_value = {{"long_name", "units: metric_units"},
                               {"coordinates", "first_layer layer_count attention ffn"}};
  file.put("value", {"replacement", "metric"}, values, of_value);
  file.put("standard_error", {"replacement", "metric"}, errors, of_value);
  put_grid(file, table, Subblock::attention);
  put_grid(file, table, Subblock::ffn);
}

void put_row_costs(Hdf5Writer& file, const ScoreTable& table, const CostColumn& cost) {
  if (table.rows.empty()) return;
  std::vector<double> values;
  for (const TableRow& row : table.rows)
    for (const ScenarioCosts& c : row.costs) values.push_back(c.*cost.member);
  file.put(cost.name, {"replacement", "scenario"}, values,
           {{"units", cost.units}, {"coordinates", "first_layer layer_count attention ffn"}});
}

void put_scenarios(Hdf5Writer& file, const ScoreTable& table) {
  const auto& scenarios = table.scenarios;
  if (scenarios.empty()) return;
  const Hdf5Writer::Dimensions by_scenario = {"scenario"};
  file.put("scenario", by_scenario, column<std::string>(scenarios, [](auto& s) { return s.name; }));
  file.put("input_tokens", by_scenario, column<int64_t>(scenarios, [](auto& s) { return s.input_tokens; }));
  file.put("output_tokens", by_scenario, column<int64_t>(scenarios, [](auto& s) { return s.output_tokens; }));
  file.put("concurrency", by_scenario, column<int64_t>(scenarios, [](auto& s) { return s.concurrency; }));
  file.put("precision", by_scenario, column<std::string>(scenarios, [](auto& s) { return name_of(s.precision); }));
  file.put("kv_precision", by_scenario,
           column<std::string>(scenarios, [](auto& s) { return name_of(s.kv_precision()); }));
  file.put("tensor_parallel", by_scenario, column<int64_t>(scenarios, [](auto& s) { return s.tensor_parallel; }),
           {{"long_name", "devices, each with a part of every matrix"}});
  file.put("cost_source", by_scenario, column<std::string>(table.sources, [](auto& c) { return c.name; }),
           {{"long_name", "measured, or the hardware description that times are modelled from"}});
  const auto put_sources = [&](const SourceColumn& c) {
    file.put(c.name, by_scenario, column<double>(table.sources, [&](auto& s) { return s.*c.member; }),
             {{"units", "1"}, {"long_name", c.long_name}});
  };
  for (const SourceColumn& c : kSourceColumns) put_sources(c);
  for (const SourceColumn& c : kTimingColumns) put_sources(c);
  file.put("workspace_bytes", by_scenario, table.workspace_bytes, {{"units", "byte"}});
  for (const CostColumn& cost : kCosts) {
    file.put(std::string("outside_") + cost.name, by_scenario,
             column<double>(table.outside, [&](auto& c) { return c.*cost.member; }),
             {{"units", cost.units}, {"long_name", "embedding, head and final norm"}});
    put_row_costs(file, table, cost);
  }
  file.put("outside_is_disturbed", by_scenario, column<double>(table.outside, [](auto& c) { return c.is_disturbed; }),
           {{"units", "1"}, {"long_name", "1: timed on a busy machine"}});
  put_row_costs(file, table, kDisturbed);
  put_row_costs(file, table, kWorkspace);
}

bool flag(int64_t value, const std::string& place) {
  if (value != 0 && value != 1) throw bad_input("{} is {}; must be 0 or 1", place, value);
  return value == 1;
}

void get_metrics(ScoreTable& table, const Hdf5Reader& file, const std::string& source) {
  const size_t M = file.length("metric"), R = table.rows.size();
  if (M == 0) return;
  const auto names = file.strings("metric", {M}), units = file.strings("metric_units", {M});
  const auto higher = file.integers("higher_is_better", {M});
  const auto teacher = file.doubles("teacher_value", {M});
  for (size_t m = 0; m < M; ++m)
    table.metrics.push_back({names[m], units[m], flag(higher[m], source + ": 'higher_is_better'"), teacher[m]});
  if (R == 0) return;
  const auto values = file.doubles("value", {R, M}), errors = file.doubles("standard_error", {R, M});
  for (size_t r = 0; r < R; ++r) {
    table.rows[r].values.assign(&values[r * M], &values[r * M] + M);
    table.rows[r].standard_errors.assign(&errors[r * M], &errors[r * M] + M);
  }
}

Precision precision_of(const std::string& text, const std::string& source) {
  const std::vector<std::string> known(std::begin(kPrecisionNames), std::end(kPrecisionNames));
  for (size_t p = 0; p < known.size(); ++p)
    if (text == known[p]) return static_cast<Precision>(p);
  throw Error(source + ": " + unknown_name("precision", text, known).what(), Failure::bad_input);
}

// What scenarios have beyond the first files of this format.
void get_sources(ScoreTable& table, const Hdf5Reader& file, const std::string& source) {
  const size_t S = table.scenarios.size();
  table.sources.resize(S);
  if (!file.has("tensor_parallel")) {
    for (CostSource& s : table.sources) s.name = kMeasured;
    return;
  }
  const auto kv_precision = file.strings("kv_precision", {S}), names = file.strings("cost_source", {S});
  const auto tensor_parallel = file.integers("tensor_parallel", {S});
  for (size_t s = 0; s < S; ++s) {
    Scenario& scenario = table.scenarios[s];
    if (const Precision kv = precision_of(kv_precision[s], source); kv != scenario.precision)
      scenario.own_kv_precision = kv;
    scenario.tensor_parallel = tensor_parallel[s];
    table.sources[s].name = names[s];
  }
  const auto get = [&](const SourceColumn& c) {
    const auto values = file.doubles(c.name, {S});
    for (size_t s = 0; s < S; ++s) table.sources[s].*c.member = values[s];
  };
  for (const SourceColumn& c : kSourceColumns) get(c);
  if (!file.has(kTimingColumns[0].name)) return;
  for (const SourceColumn& c : kTimingColumns) get(c);
}

void get_scenarios(ScoreTable& table, const Hdf5Reader& file, const std::string& source) {
  const size_t S = file.length("scenario"), R = table.rows.size();
  if (S == 0) return;
  const auto names = file.strings("scenario", {S}), precision = file.strings("precision", {S});
  const auto input = file.integers("input_tokens", {S}), output = file.integers("output_tokens", {S});
  const auto concurrency = file.integers("concurrency", {S});
  for (size_t s = 0; s < S; ++s)
    table.scenarios.push_back({names[s], input[s], output[s], concurrency[s], precision_of(precision[s], source)});
  get_sources(table, file, source);
  table.workspace_bytes = file.doubles("workspace_bytes", {S});
  table.outside.resize(S);
  for (TableRow& row : table.rows) row.costs.resize(S);
  const auto get_outside = [&](const CostColumn& cost) {
    const auto outside = file.doubles(std::string("outside_") + cost.name, {S});
    for (size_t s = 0; s < S; ++s) table.outside[s].*cost.member = outside[s];
  };
  const auto get_rows = [&](const CostColumn& cost) {
    if (R == 0) return;
    const auto values = file.doubles(cost.name, {R, S});
    for (size_t r = 0; r < R; ++r)
      for (size_t s = 0; s < S; ++s) table.rows[r].costs[s].*cost.member = values[r * S + s];
  };
  for (const CostColumn& cost : kCosts) get_outside(cost), get_rows(cost);
  if (!file.has("outside_is_disturbed")) return;
  get_outside(kDisturbed);
  get_rows(kDisturbed), get_rows(kWorkspace);
}

void get_rows(ScoreTable& table, const Hdf5Reader& file, const std::string& source) {
  const size_t R = file.length("replacement");
  if (R == 0) return;
  const auto first = file.integers("first_layer", {R}), count = file.integers("layer_count", {R});
  const auto attention = file.strings("attention", {R}), ffn = file.strings("ffn", {R});
  const auto teacher = file.integers("is_teacher", {R}), scored = file.integers("is_scored", {R});
  const auto parameters = file.doubles("parameters", {R});
  for (size_t r = 0; r < R; ++r)
    table.rows.push_back({.first_layer = first[r],
                          .layer_count = count[r],
                          .attention = attention[r],
                          .ffn = ffn[r],
                          .teacher = flag(teacher[r], source + ": 'is_teacher'"),
                          .scored = flag(scored[r], source + ": 'is_scored'"),
                          .parameters = parameters[r]});
}

}  // namespace

void write_scores(const ScoreTable& table, const std::filesystem::path& path) {
  check_table(table, path.string());
  Hdf5Writer file(path);
  file.attribute("Conventions", "CF-1.8");
  file.attribute("Format", kFormat);  // a capital, so that no attribute of a table has this name
  for (const auto& [name, value] : table.attributes) file.attribute(name, value);
  std::vector<int64_t> layers(static_cast<size_t>(table.layer_count));
  for (size_t l = 0; l < layers.size(); ++l) layers[l] = static_cast<int64_t>(l);
  file.put("layer", {"layer"}, layers);
  file.put("outside_parameters", {}, std::span(&table.outside_parameters, 1),
           {{"units", "1"}, {"long_name", "embedding, head and final norm"}});
  if (!table.rows.empty()) put_rows(file, table);
  put_metrics(file, table);
  put_scenarios(file, table);
  file.save();
}

ScoreTable read_scores(const std::filesystem::path& path) {
  const Hdf5Reader file(path);
  ScoreTable table;
  table.attributes = file.attributes();
  if (table.attributes["Format"] != kFormat)
    throw bad_input("{}: is no score table: its attribute 'Format' must be '{}'", path.string(), kFormat);
  table.attributes.erase("Format");
  table.attributes.erase("Conventions");
  table.layer_count = static_cast<int64_t>(file.length("layer"));
  table.outside_parameters = file.doubles("outside_parameters", {})[0];
  get_rows(table, file, path.string());
  get_metrics(table, file, path.string());
  get_scenarios(table, file, path.string());
  check_table(table, path.string());
  return table;
}

}  // namespace tangram
