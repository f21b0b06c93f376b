#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "nas/evaluation_file.h"
#include "nas/inspect.h"
#include "nas/table.h"
#include "puzzle/outliers.h"

namespace tangram {
namespace {

/// A row of the table as seen through one metric.
struct Score {
  const TableRow* row;
  double loss = kMissing;  ///< change from the teacher, turned so that more is worse; NaN if there is none
  double standard_error = kMissing;
  bool outlier = false;  ///< far worse here than the same variant in most layers
};

std::string variant_of(const TableRow& row) {
  if (row.ffn.empty()) return row.attention;
  return row.attention.empty() ? row.ffn : row.attention + "+" + row.ffn;
}

/// Which grid a row belongs to: attention, ffn, or both together.
std::string_view kind_of(const TableRow& row) {
  if (!row.attention.empty() && !row.ffn.empty()) return "block";
  return row.ffn.empty() ? "attention" : "ffn";
}

using Layers = std::pair<int64_t, int64_t>;  // first and last
Layers layers_of(const TableRow& row) { return {row.first_layer, row.first_layer + row.layer_count - 1}; }

/// One variant in all layers.
struct Column {
  std::string variant;
  double median = 0;
  std::map<Layers, const Score*> cells;
};

// The columns of a grid, best first. Variants without a score come last.
std::vector<Column> columns_of(const std::vector<Score>& scores, std::string_view kind) {
  std::map<std::string, std::vector<const Score*>> variants;
  for (const Score& s : scores)
    if (kind_of(*s.row) == kind) variants[variant_of(*s.row)].push_back(&s);
  std::vector<Column> columns;
  for (const auto& [variant, members] : variants) {
    std::vector<double> losses;
    for (const Score* s : members)
      if (!std::isnan(s->loss)) losses.push_back(s->loss);
    std::sort(losses.begin(), losses.end());
    Column column{.variant = variant, .median = losses.empty() ? INFINITY : quantile(losses, 0.5), .cells = {}};
    for (const Score* s : members) column.cells[layers_of(*s->row)] = s;
    columns.push_back(column);
  }
  std::stable_sort(columns.begin(), columns.end(),
                   [](const Column& a, const Column& b) { return a.median < b.median; });
  return columns;
}

std::string cell_text(const Score* s) {
  if (!s || std::isnan(s->loss)) return "-";
  return fmt::format("{:.5f}{}", s->loss, s->outlier ? "*" : " ");
}

std::string grid_text(const std::vector<Column>& columns) {
  Table table{.header = {"layer"}, .rows = {}};
  std::set<Layers> layers;
  for (const Column& column : columns) {
    table.header.push_back(column.variant);
    for (const auto& [where, score] : column.cells) layers.insert(where);
  }
  for (const Layers& l : layers) {
    std::vector<std::string> cells{l.first == l.second ? fmt::format("{}", l.first)
                                                       : fmt::format("{}-{}", l.first, l.second)};
    for (const Column& column : columns) {
      const auto found = column.cells.find(l);
      cells.push_back(cell_text(found == column.cells.end() ? nullptr : found->second));
    }
    table.rows.push_back(cells);
  }
  constexpr size_t kWidth = 120;
  return format_wide_table(table, kWidth);
}

std::vector<Score> scores_of(const ScoreTable& table, size_t metric) {
  const std::vector<double> losses = losses_of(table, metric);
  const std::vector<bool> outliers = outliers_of(table, losses);
  std::vector<Score> scores;
  for (size_t r = 0; r < table.rows.size(); ++r)
    scores.push_back({.row = &table.rows[r],
                      .loss = losses[r],
                      .standard_error = table.rows[r].standard_errors[metric],
                      .outlier = outliers[r]});
  return scores;
}

nlohmann::ordered_json scenarios_json(const ScoreTable& table) {
  nlohmann::ordered_json scenarios = nlohmann::ordered_json::array();
  for (size_t s = 0; s < table.scenarios.size(); ++s) {
    const Scenario& scenario = table.scenarios[s];
    const CostSource& source = table.sources[s];
    scenarios.push_back({{"name", scenario.name},
                         {"input_tokens", scenario.input_tokens},
                         {"output_tokens", scenario.output_tokens},
                         {"concurrency", scenario.concurrency},
                         {"precision", name_of(scenario.precision)},
                         {"kv_precision", name_of(scenario.kv_precision())},
                         {"tensor_parallel", scenario.tensor_parallel},
                         {"source", source.name},
                         {"prefill_factor", source.prefill_factor},
                         {"decode_factor", source.decode_factor},
                         {"prefill_error", source.prefill_error},
                         {"decode_error", source.decode_error},
                         {"timings", source.timings},
                         {"disturbed_timings", source.disturbed_timings}});
  }
  return scenarios;
}

void print_json(const ScoreTable& table, const TableMetric& metric, const std::vector<Score>& scores,
                const VerbInput& in) {
  nlohmann::ordered_json json = {{"kind", "scores"},
                                 {"layers", table.layer_count},
                                 {"metric", metric.name},
                                 {"units", metric.units},
                                 {"teacher", metric.teacher},
                                 {"scenarios", scenarios_json(table)},
                                 {"replacements", nlohmann::ordered_json::array()}};
  for (const Score& s : scores)  // NaN is written as null
    json["replacements"].push_back({{"first_layer", s.row->first_layer},
                                    {"layer_count", s.row->layer_count},
                                    {"attention", s.row->attention},
                                    {"ffn", s.row->ffn},
                                    {"loss", s.loss},
                                    {"standard_error", s.standard_error},
                                    {"outlier", s.outlier}});
  fmt::print(in.out, "{}\n", json.dump(2));
}

// How whole models compare with the sums of their parts.
void print_source(const CostSource& source, const VerbInput& in) {
  const auto print = [&](std::string_view what, double factor, double error) {
    if (std::isnan(error)) return;
    fmt::print(in.out, "  {}: whole models take {:.3f} times the sum of their parts, ± {:.1f} %\n", what, factor,
               100 * error);
  };
  print("prefill", source.prefill_factor, source.prefill_error);
  print("decode", source.decode_factor, source.decode_error);
}

void print_scenarios(const ScoreTable& table, const VerbInput& in) {
  for (size_t s = 0; s < table.scenarios.size(); ++s) {
    const Scenario& scenario = table.scenarios[s];
    const auto measured = std::count_if(table.rows.begin(), table.rows.end(),
                                        [&](const TableRow& row) { return !std::isnan(row.costs[s].prefill_seconds); });
    const CostSource& source = table.sources[s];
    std::string how = std::string(name_of(scenario.precision));
    if (scenario.kv_precision() != scenario.precision) how += fmt::format(", KV {}", name_of(scenario.kv_precision()));
    if (scenario.tensor_parallel > 1) how += fmt::format(", {} devices", scenario.tensor_parallel);
    fmt::print(in.out, "scenario {}: {} tokens in, {} out, {} sequences, {}; {} for {} of {} replacements\n",
               scenario.name, scenario.input_tokens, scenario.output_tokens, scenario.concurrency, how,
               source.name == kMeasured || source.name.empty() ? kMeasured : "modelled from " + source.name, measured,
               table.rows.size());
    print_source(source, in);
  }
  fmt::print(in.out, "{}", disturbance_text(table));
}

// The metric that is shown unless another is asked for.
size_t default_metric(const ScoreTable& table, const std::filesystem::path& file) {
  if (table.metrics.empty()) throw bad_input("{}: no metric in the table: nothing has been scored", file.string());
  const auto found = std::find_if(table.metrics.begin(), table.metrics.end(),
                                  [](const TableMetric& m) { return m.name == "kl_divergence"; });
  return found == table.metrics.end() ? 0 : static_cast<size_t>(found - table.metrics.begin());
}

}  // namespace

void inspect_scores(const std::filesystem::path& file, const std::string& metric, const VerbInput& in) {
  const ScoreTable table = read_scores(file);
  const size_t index = metric.empty() ? default_metric(table, file) : metric_index(table, metric);
  const TableMetric& m = table.metrics[index];
  const std::vector<Score> scores = scores_of(table, index);
  std::string text;
  for (const std::string_view kind : {"attention", "ffn", "block"})
    if (const std::vector<Column> columns = columns_of(scores, kind); !columns.empty())
      text += fmt::format("\n{}, best variant first\n\n{}", kind, grid_text(columns));
  if (in.json) return print_json(table, m, scores, in);

  double largest_error = 0;
  for (const Score& s : scores) largest_error = std::fmax(largest_error, s.standard_error);
  fmt::print(in.out,
             "{}: what each replacement alone changes for the worse{}; teacher {:.5f}, standard errors up to {:.5f}\n",
             m.name, m.units == "1" ? "" : ", in " + m.units, m.teacher, largest_error);
  fmt::print(in.out, "{}", text);
  if (std::any_of(scores.begin(), scores.end(), [](const Score& s) { return s.outlier; }))
    fmt::print(in.out, "\n* far worse than the same variant in most layers\n");
  if (!table.scenarios.empty()) fmt::print(in.out, "\n");
  print_scenarios(table, in);
}

}  // namespace tangram
