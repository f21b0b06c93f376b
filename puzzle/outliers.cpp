#include "puzzle/outliers.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace tangram {

std::vector<double> losses_of(const ScoreTable& table, size_t metric) {
  const TableMetric& m = table.metrics[metric];
  std::vector<double> losses;
  for (const TableRow& row : table.rows) {
    const double change = row.values[metric] - m.teacher;
    losses.push_back(row.teacher ? 0 : m.higher_is_better ? -change : change);
  }
  return losses;
}

double quantile(std::span<const double> sorted, double part) {
  const double at = part * double(sorted.size() - 1);
  const auto i = static_cast<size_t>(at);
  const double next = i + 1 < sorted.size() ? sorted[i + 1] : sorted[i];
  return sorted[i] + (at - double(i)) * (next - sorted[i]);
}

std::vector<bool> outliers_of(const ScoreTable& table, std::span<const double> losses) {
  constexpr double kRanges = 3;
  using Key = std::tuple<int64_t, std::string, std::string>;
  const auto variant_of = [&](size_t r) {
    return Key(table.rows[r].layer_count, table.rows[r].attention, table.rows[r].ffn);
  };
  std::map<Key, std::vector<double>> values;
  for (size_t r = 0; r < losses.size(); ++r)
    if (!std::isnan(losses[r])) values[variant_of(r)].push_back(losses[r]);
  std::map<Key, double> fences;
  for (auto& [variant, sorted] : values) {
    std::sort(sorted.begin(), sorted.end());
    const double q1 = quantile(sorted, 0.25), q3 = quantile(sorted, 0.75);
    fences[variant] = q3 + kRanges * (q3 - q1);
  }
  std::vector<bool> outliers;
  for (size_t r = 0; r < losses.size(); ++r)
    outliers.push_back(!std::isnan(losses[r]) && losses[r] > fences.at(variant_of(r)));
  return outliers;
}

}  // namespace tangram
