#include "kernels/error.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace tangram {

static size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row.back();
}

std::string nearest_name(std::string_view name, std::span<const std::string> known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 2) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) best = candidate, best_distance = distance;
  }
  return best;
}

// The shortest name of which `name` is the beginning: who writes h100 means h100-80gb, though h200 is fewer edits off.
static std::string shortest_beginning_with(std::string_view name, std::span<const std::string> known) {
  constexpr size_t kFewest = 3;  // letters that say enough
  std::string shortest;
  for (const std::string& candidate : known)
    if (name.size() >= kFewest && candidate.starts_with(name) &&
        (shortest.empty() || candidate.size() < shortest.size()))
      shortest = candidate;
  return shortest;
}

Error unknown_name(std::string_view what, std::string_view name, std::span<const std::string> known) {
  std::string nearest = shortest_beginning_with(name, known);
  if (nearest.empty()) nearest = nearest_name(name, known);
  return bad_input("no {} '{}';{} known: {}", what, name,
                   nearest.empty() ? "" : fmt::format(" did you mean '{}'?", nearest), fmt::join(known, ", "));
}

void detail::check_failed(const char* file, int line, const char* condition, const std::string& message) {
  throw Error(fmt::format("{}:{}: {} ({})", file, line, message, condition));
}

}  // namespace tangram
