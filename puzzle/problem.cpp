#include "puzzle/problem.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace tangram {

void check_problem(const Problem& problem) {
  if (problem.layer_count < 1 || problem.layer_count > 1'000'000)
    throw bad_input("a search over {} layers; must be 1 to 1000000", problem.layer_count);
  for (const LinearLimit& limit : problem.limits)
    if (!std::isfinite(limit.maximum) || !std::isfinite(limit.fixed))
      throw bad_input("limit {} is {}, of which {} are outside the blocks; both must be finite", limit.name,
                      limit.maximum, limit.fixed);
  if (problem.most_variants < 0) throw bad_input("at most {} variants; must be at least 1", problem.most_variants);
  std::vector<bool> filled(static_cast<size_t>(2 * problem.layer_count));
  std::set<int64_t> rows;
  const auto check_entry = [&](const Entry& entry) {
    if (!rows.insert(entry.row).second) throw bad_input("row {} is two entries", entry.row);
    if (entry.costs.size() != problem.limits.size())
      throw bad_input("row {} has {} costs; there are {} limits", entry.row, entry.costs.size(), problem.limits.size());
    bool finite = std::isfinite(entry.objective) && std::isfinite(entry.parameters);
    for (const double cost : entry.costs) finite = finite && std::isfinite(cost);
    if (!finite) throw bad_input("row {} has a score or cost that is not finite", entry.row);
    if (entry.slots.empty()) throw bad_input("row {} fills nothing", entry.row);
    for (size_t i = 0; i < entry.slots.size(); ++i) {
      const int32_t slot = entry.slots[i];
      if (slot < 0 || slot >= 2 * problem.layer_count || (i > 0 && slot <= entry.slots[i - 1]))
        throw bad_input("row {} fills slot {} of {}; slots must ascend", entry.row, slot, 2 * problem.layer_count);
      filled[static_cast<size_t>(slot)] = true;
    }
  };
  for (const Entry& entry : problem.entries) check_entry(entry);
  for (const TakenOut& taken : problem.taken_out) check_entry(taken.entry);
  for (size_t slot = 0; slot < filled.size(); ++slot)
    if (!filled[slot])
      throw bad_input("no replacement with all its scores and costs is left for the {} of layer {}",
                      name_of(slot % 2 == 0 ? Subblock::attention : Subblock::ffn), slot / 2);
}

Solution evaluate(const Problem& problem, std::vector<int32_t> entries) {
  const auto entry_of = [&](int32_t i) -> const Entry& { return problem.entries[static_cast<size_t>(i)]; };
  std::sort(entries.begin(), entries.end(),
            [&](int32_t a, int32_t b) { return entry_of(a).slots < entry_of(b).slots; });
  std::vector<int> filled(static_cast<size_t>(2 * problem.layer_count));
  Solution solution;
  for (const LinearLimit& limit : problem.limits) solution.totals.push_back(limit.fixed);
  for (const int32_t i : entries) {
    const Entry& entry = entry_of(i);
    for (const int32_t slot : entry.slots) ++filled[static_cast<size_t>(slot)];
    solution.objective += entry.objective;
    solution.parameters += entry.parameters;
    for (size_t k = 0; k < entry.costs.size(); ++k) solution.totals[k] += entry.costs[k];
  }
  for (size_t slot = 0; slot < filled.size(); ++slot)
    CHECK(filled[slot] == 1, "slot {} is filled {} times", slot, filled[slot]);
  solution.entries = std::move(entries);
  return solution;
}

std::vector<int64_t> rows_of(const Problem& problem, const Solution& solution) {
  std::vector<int64_t> rows;
  for (const int32_t i : solution.entries) rows.push_back(problem.entries[static_cast<size_t>(i)].row);
  return rows;
}

std::vector<int32_t> entries_of(const Problem& problem, const std::vector<int64_t>& rows) {
  std::vector<int32_t> entries;
  for (const int64_t row : rows) {
    const auto entry =
        std::find_if(problem.entries.begin(), problem.entries.end(), [&](const Entry& e) { return e.row == row; });
    CHECK(entry != problem.entries.end(), "no entry has row {}", row);
    entries.push_back(static_cast<int32_t>(entry - problem.entries.begin()));
  }
  return entries;
}

bool keeps(const LinearLimit& limit, double total) {
  // Each of some hundred additions is off by at most 2^-53 of the total: 2e-14 for 160 of them.
  const double rounding = 1e-13 * std::max(std::abs(limit.maximum), std::abs(limit.fixed));
  return total <= limit.maximum + rounding;
}

bool keeps_limits(const Problem& problem, const Solution& solution) {
  for (size_t k = 0; k < problem.limits.size(); ++k)
    if (!keeps(problem.limits[k], solution.totals[k])) return false;
  return true;
}

int64_t variant_count(const Problem& problem, const Solution& solution) {
  std::set<int32_t> variants;
  for (const int32_t i : solution.entries) {
    const Entry& entry = problem.entries[static_cast<size_t>(i)];
    variants.insert(entry.variants.begin(), entry.variants.end());
  }
  return static_cast<int64_t>(variants.size());
}

bool is_allowed(const Problem& problem, const Solution& solution) {
  return keeps_limits(problem, solution) &&
         (problem.most_variants == 0 || variant_count(problem, solution) <= problem.most_variants);
}

double unit_of_excess(const Problem& problem, size_t limit) {
  double unit = std::abs(problem.limits[limit].maximum);
  if (unit > 0) return unit;
  for (const Entry& entry : problem.entries) unit = std::max(unit, std::abs(entry.costs[limit]));
  return unit > 0 ? unit : 1;
}

double excess_of(const Problem& problem, const Solution& solution) {
  double excess = 0;
  for (size_t k = 0; k < problem.limits.size(); ++k)
    if (!keeps(problem.limits[k], solution.totals[k]))
      excess = std::max(excess, (solution.totals[k] - problem.limits[k].maximum) / unit_of_excess(problem, k));
  return excess;
}

static std::vector<int32_t> entry_of_slot(const Problem& problem, const Solution& solution) {
  std::vector<int32_t> entries(static_cast<size_t>(2 * problem.layer_count), -1);
  for (const int32_t i : solution.entries)
    for (const int32_t slot : problem.entries[static_cast<size_t>(i)].slots) entries[static_cast<size_t>(slot)] = i;
  return entries;
}

std::vector<char> layers_differing(const Problem& problem, const Solution& a, const Solution& b) {
  const std::vector<int32_t> of_a = entry_of_slot(problem, a), of_b = entry_of_slot(problem, b);
  std::vector<char> differs;
  for (size_t slot = 0; slot < of_a.size(); slot += 2)
    differs.push_back(of_a[slot] != of_b[slot] || of_a[slot + 1] != of_b[slot + 1]);
  return differs;
}

int64_t layers_that_differ(const Problem& problem, const Solution& a, const Solution& b) {
  const std::vector<char> differs = layers_differing(problem, a, b);
  return std::count(differs.begin(), differs.end(), 1);
}

}  // namespace tangram
