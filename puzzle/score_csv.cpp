#include "puzzle/score_csv.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "blocks/file.h"

namespace tangram {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 28;

/// The fields of the line that begins at `at`, which moves behind it. Quoted fields may have commas and line ends.
std::vector<std::string> next_line(std::string_view text, size_t& at) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted && c == '"' && at + 1 < text.size() && text[at + 1] == '"')
      fields.back() += text[++at];
    else if (c == '"')
      quoted = !quoted;
    else if (quoted)
      fields.back() += c;
    else if (c == ',')
      fields.emplace_back();
    else if (c == '\n')
      break;
    else if (c != '\r')
      fields.back() += c;
  }
  at = std::min(at + 1, text.size());
  for (std::string& field : fields) {
    field.erase(0, std::min(field.find_first_not_of(" \t"), field.size()));
    field.erase(field.find_last_not_of(" \t") + 1);
  }
  return fields;
}

std::optional<double> number_in(std::string_view text) {
  double value = 0;
  if (text.starts_with("+")) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

enum class Field : uint8_t { layer, layers, attention, ffn, teacher, parameters, value, standard_error, cost };
enum class Cost : uint8_t { weight, kv_cache, prefill, decode, workspace };
constexpr std::array<std::string_view, 5> kCostNames = {"weight_bytes", "kv_cache_bytes", "prefill_seconds",
                                                        "decode_seconds", "workspace_bytes"};

/// What a column means.
struct Column {
  Field field;
  size_t index = 0;  // of its metric or scenario
  Cost cost = Cost::weight;
};

double& cost_in(ScenarioCosts& costs, Cost cost) {
  double* const all[] = {&costs.weight_bytes, &costs.kv_cache_bytes, &costs.prefill_seconds, &costs.decode_seconds};
  return *all[static_cast<size_t>(cost)];
}

class CsvReader {
 public:
  CsvReader(const std::filesystem::path& path, const CsvMeaning& meaning, CsvReport& report)
      : path_(path), meaning_(meaning), report_(report), text_(read_text_file(path, kMostBytes)) {
    for (const Scenario& scenario : meaning.scenarios) add_scenario(table_, scenario);
    has_column_.resize(table_.scenarios.size());
  }

  ScoreTable read() {
    read_header(next());
    while (at_ < text_.size()) {
      const std::vector<std::string> fields = next();
      if (fields.size() == 1 && fields[0].empty()) continue;  // an empty line
      if (fields.size() != columns_.size())
        fail("{} fields; the first line names {} columns", fields.size(), columns_.size());
      if (fields[layer_column_] == "outside")
        read_outside(fields);
      else
        read_row(fields);
    }
    finish();
    return std::move(table_);
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw bad_input("{}:{}: {}", path_.string(), line_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::vector<std::string> next() {
    ++line_;
    return next_line(text_, at_);
  }

  void read_header(const std::vector<std::string>& names) {
    std::vector<std::string> seen;
    for (const std::string& name : names) {
      if (name.empty()) fail("column {} has no name", seen.size() + 1);
      if (std::find(seen.begin(), seen.end(), name) != seen.end()) fail("two columns are called '{}'", name);
      seen.push_back(name);
    }
    for (const std::string& name : names) columns_.push_back(column_called(name, names));
    const auto layer = std::find(names.begin(), names.end(), "layer");
    if (layer == names.end()) fail("no column 'layer'");
    layer_column_ = static_cast<size_t>(layer - names.begin());
    if (std::find(names.begin(), names.end(), "attention") == names.end() &&
        std::find(names.begin(), names.end(), "ffn") == names.end())
      fail("neither a column 'attention' nor 'ffn'");
    if (table_.metrics.empty()) fail("no column is a metric");
  }

  Column column_called(const std::string& name, const std::vector<std::string>& names) {
    constexpr std::array<std::string_view, 6> kFixed = {"layer", "layers", "attention", "ffn", "teacher", "parameters"};
    if (const auto fixed = std::find(kFixed.begin(), kFixed.end(), name); fixed != kFixed.end())
      return {static_cast<Field>(fixed - kFixed.begin())};
    const size_t dot = name.rfind('.');
    const std::string last = dot == std::string::npos ? name : name.substr(dot + 1);
    const std::string first = dot == std::string::npos ? "" : name.substr(0, dot);
    if (const auto cost = std::find(kCostNames.begin(), kCostNames.end(), last); cost != kCostNames.end()) {
      const Column column{Field::cost, scenario_called(first, name), static_cast<Cost>(cost - kCostNames.begin())};
      has_column_[column.index][static_cast<size_t>(column.cost)] = true;
      return column;
    }
    if (last == "standard_error") {
      if (std::find(names.begin(), names.end(), first) == names.end()) fail("column '{}': no metric '{}'", name, first);
      return {Field::standard_error, metric_called(first)};
    }
    refuse_slip(last, name);
    return {Field::value, metric_called(name)};
  }

  /// A metric whose name is nearly that of another column is a slip, which would leave that column out.
  void refuse_slip(const std::string& last, const std::string& column) const {
    std::vector<std::string> known{"layer", "layers", "attention", "ffn", "teacher", "parameters", "standard_error"};
    known.insert(known.end(), kCostNames.begin(), kCostNames.end());
    if (const std::string nearest = nearest_name(last, known); !nearest.empty())
      fail("no column '{}'; did you mean '{}'? A metric must not be called nearly like another column", column,
           nearest);
  }

  size_t metric_called(const std::string& name) {
    for (size_t m = 0; m < table_.metrics.size(); ++m)
      if (table_.metrics[m].name == name) return m;
    const auto& higher = meaning_.higher_is_better;
    const auto units = meaning_.units.find(name);
    return add_metric(table_, {.name = name,
                               .units = units == meaning_.units.end() ? "1" : units->second,
                               .higher_is_better = std::find(higher.begin(), higher.end(), name) != higher.end()});
  }

  size_t scenario_called(const std::string& name, const std::string& column) const {
    if (table_.scenarios.empty())
      fail("column '{}' is a cost, and no scenario is given: say for which tokens in, tokens out and sequences",
           column);
    if (!name.empty()) return scenario_index(table_, name);
    if (table_.scenarios.size() > 1)
      fail("column '{}' is a cost of which of the {} scenarios? Write its name in front: {}.{}", column,
           table_.scenarios.size(), table_.scenarios[0].name, column);
    return 0;
  }

  int64_t integer_in(const std::string& field, std::string_view column) const {
    const std::optional<double> value = number_in(field);
    if (!value || *value != std::floor(*value) || std::abs(*value) > 1e6)
      fail("column '{}': found '{}'; must be a whole number", column, field);
    return static_cast<int64_t>(*value);
  }

  /// A number, or NaN and one more in `missing`.
  double cell(const std::string& field, int64_t& missing) const {
    const std::optional<double> value = field.empty() ? kMissing : number_in(field);
    if (!value) fail("found '{}'; must be a number, or nothing where it is missing", field);
    if (std::isfinite(*value)) return *value;
    ++missing;
    return kMissing;
  }

  bool flag_in(const std::string& field) const {
    if (field == "1" || field == "true") return true;
    if (field.empty() || field == "0" || field == "false") return false;
    fail("column 'teacher': found '{}'; must be 1 or 0", field);
  }

  void read_row(const std::vector<std::string>& fields) {
    TableRow row{.first_layer = integer_in(fields[layer_column_], "layer"), .attention = {}, .ffn = {}};
    row.values.assign(table_.metrics.size(), kMissing);
    row.standard_errors = row.values;
    row.costs = costs_without_columns();
    for (size_t c = 0; c < columns_.size(); ++c) {
      const Column& column = columns_[c];
      const std::string& field = fields[c];
      int64_t unknown = 0;
      switch (column.field) {
        case Field::layer:
          break;
        case Field::layers:
          row.layer_count = field.empty() ? 1 : integer_in(field, "layers");
          break;
        case Field::attention:
          row.attention = field;
          break;
        case Field::ffn:
          row.ffn = field;
          break;
        case Field::teacher:
          row.teacher = flag_in(field);
          break;
        case Field::parameters:
          row.parameters = cell(field, report_.missing_costs);
          break;
        case Field::value:
          row.values[column.index] = cell(field, report_.missing_scores);
          break;
        case Field::standard_error:
          row.standard_errors[column.index] = cell(field, unknown);
          break;
        case Field::cost:
          if (column.cost != Cost::workspace)
            cost_in(row.costs[column.index], column.cost) = cell(field, report_.missing_costs);
          else if (!field.empty())
            fail("column 'workspace_bytes': found '{}'; must be empty for a layer: the row 'outside' has that of all",
                 field);
          break;
      }
    }
    table_.layer_count = std::max(table_.layer_count, row.first_layer + row.layer_count);
    table_.rows.push_back(std::move(row));
    ++report_.rows;
  }

  void read_outside(const std::vector<std::string>& fields) {
    if (has_outside_) fail("a second row 'outside'");
    has_outside_ = true;
    start_outside();
    int64_t unknown = 0;
    for (size_t c = 0; c < columns_.size(); ++c) {
      const Column& column = columns_[c];
      if (column.field == Field::parameters) table_.outside_parameters = cell(fields[c], unknown);
      if (column.field == Field::value) table_.metrics[column.index].teacher = cell(fields[c], unknown);
      if (column.field != Field::cost) continue;
      double& cost = column.cost == Cost::workspace ? table_.workspace_bytes[column.index]
                                                    : cost_in(table_.outside[column.index], column.cost);
      cost = cell(fields[c], report_.missing_costs);
    }
  }

  bool has(size_t scenario, Cost cost) const { return has_column_[scenario][static_cast<size_t>(cost)]; }

  /// What is known of a part's costs without reading its line: a cache that is beside weights may be none.
  std::vector<ScenarioCosts> costs_without_columns() const {
    std::vector<ScenarioCosts> costs(table_.scenarios.size());
    for (size_t s = 0; s < costs.size(); ++s)
      if (has(s, Cost::weight) && !has(s, Cost::kv_cache)) costs[s].kv_cache_bytes = 0;
    return costs;
  }

  void start_outside() {
    table_.outside = costs_without_columns();
    table_.workspace_bytes.assign(table_.scenarios.size(), 0);
  }

  /// Costs that nobody gave: nothing, and the report says so.
  void take_outside_as_zero() {
    start_outside();
    for (const Column& column : columns_) {
      if (column.field == Field::parameters) table_.outside_parameters = 0;
      if (column.field == Field::cost && column.cost != Cost::workspace)
        cost_in(table_.outside[column.index], column.cost) = 0;
      if (column.field == Field::parameters || column.field == Field::cost) lacks_outside_ = true;
    }
  }

  void name_what_is_zero() {
    if (lacks_outside_) report_.taken_as_zero.emplace_back("all that is outside the blocks (no row 'outside')");
    for (size_t s = 0; s < table_.scenarios.size(); ++s)
      for (const Cost cost : {Cost::kv_cache, Cost::workspace})
        if (has(s, Cost::weight) && !has(s, cost))
          report_.taken_as_zero.push_back(
              fmt::format("{}.{} (no such column)", table_.scenarios[s].name, kCostNames[static_cast<size_t>(cost)]));
  }

  void finish() {
    if (!has_outside_) take_outside_as_zero();
    name_what_is_zero();
    for (size_t s = 0; s < table_.scenarios.size(); ++s) table_.sources[s].name = "imported";
    for (size_t m = 0; m < table_.metrics.size(); ++m) {
      TableMetric& metric = table_.metrics[m];
      if (std::isnan(metric.teacher)) metric.teacher = value_of_teacher_rows(m);
      if (std::isnan(metric.teacher))
        throw bad_input(
            "{}: the teacher's own {} is not known: mark its rows in a column 'teacher', or give it in a row 'outside'",
            path_.string(), metric.name);
    }
    check_table(table_, path_.string());
  }

  double value_of_teacher_rows(size_t metric) const {
    double value = kMissing;
    for (const TableRow& row : table_.rows) {
      if (!row.teacher || std::isnan(row.values[metric])) continue;
      if (!std::isnan(value) && value != row.values[metric]) return kMissing;
      value = row.values[metric];
    }
    return value;
  }

  const std::filesystem::path& path_;
  const CsvMeaning& meaning_;
  CsvReport& report_;
  const std::string text_;
  size_t at_ = 0, line_ = 0, layer_column_ = 0;
  std::vector<Column> columns_;
  std::vector<std::array<bool, kCostNames.size()>> has_column_;  // (scenarios, costs)
  bool has_outside_ = false, lacks_outside_ = false;
  ScoreTable table_;
};

}  // namespace

ScoreTable read_score_csv(const std::filesystem::path& path, const CsvMeaning& meaning, CsvReport& report) {
  return CsvReader(path, meaning, report).read();
}

}  // namespace tangram
