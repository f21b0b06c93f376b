#include "nas/taken_limits.h"

#include <algorithm>
#include <cmath>

#include "nas/limit_text.h"

namespace tangram {
namespace {

bool is_on(const Constraint& constraint, const Scenario& scenario) {
  return constraint.quantity != Quantity::parameters &&
         (constraint.scenario.empty() || constraint.scenario == scenario.name ||
          constraint.scenario == scenario.group());
}

bool is_missed(const TakenLimit& limit) { return limit.missed; }

// Whether another runtime of the same student shows that its group's limits can be kept.
bool is_kept_elsewhere(const MeasuredRuntime& runtime, const std::vector<MeasuredRuntime>& all) {
  const auto group = [](const MeasuredRuntime& r) { return r.scenario.substr(0, r.scenario.rfind('@')); };
  return std::any_of(all.begin(), all.end(), [&](const MeasuredRuntime& r) {
    return r.name == runtime.name && r.scenario != runtime.scenario && group(r) == group(runtime) &&
           r.limits.size() >= runtime.limits.size() && std::none_of(r.limits.begin(), r.limits.end(), is_missed);
  });
}

}  // namespace

double taken(const MeasuredRuntime& r, const Scenario& scenario, Quantity quantity) {
  const double all = r.prefill_seconds + r.decode_seconds;
  switch (quantity) {
    case Quantity::memory:
      return r.memory_bytes();
    case Quantity::kv_cache:
      return r.kv_cache_bytes;
    case Quantity::throughput:
      return double(scenario.concurrency * scenario.output_tokens) / (all * double(scenario.tensor_parallel));
    case Quantity::latency:
      return all;
    case Quantity::time_to_first_token:
      return r.prefill_seconds;
    case Quantity::time_per_output_token:
      return r.decode_seconds / double(std::max<int64_t>(scenario.output_tokens - 1, 1));
    case Quantity::parameters:
      break;
  }
  return kMissing;
}

void check_limits(std::vector<MeasuredRuntime>& runtimes, const std::vector<Scenario>& scenarios,
                  const std::function<std::vector<Constraint>(const std::string& student)>& limits_of) {
  for (MeasuredRuntime& r : runtimes) {
    if (r.name == kTeacher) continue;
    const auto scenario =
        std::find_if(scenarios.begin(), scenarios.end(), [&](const Scenario& s) { return s.name == r.scenario; });
    const auto teacher = std::find_if(runtimes.begin(), runtimes.end(), [&](const MeasuredRuntime& t) {
      return t.name == kTeacher && t.scenario == r.scenario;
    });
    for (const Constraint& c : limits_of(r.name)) {
      if (!is_on(c, *scenario) || (c.relative && teacher == runtimes.end())) continue;
      const double limit = c.relative ? c.bound * taken(*teacher, *scenario, c.quantity) : c.bound;
      const double value = taken(r, *scenario, c.quantity);
      const bool missed = c.quantity == Quantity::throughput ? value < limit : value > limit;
      r.limits.push_back({std::string(name_of(c.quantity)), limit, value, missed});
    }
  }
  const std::vector<MeasuredRuntime> all = runtimes;
  for (MeasuredRuntime& r : runtimes)
    if (std::any_of(r.limits.begin(), r.limits.end(), is_missed) && is_kept_elsewhere(r, all)) r.limits.clear();
}

std::string limit_text(const TakenLimit& limit) {
  const auto quantity =
      std::find_if(kQuantities.begin(), kQuantities.end(), [&](Quantity q) { return name_of(q) == limit.quantity; });
  const std::string_view units = quantity == kQuantities.end() ? "" : units_of(*quantity);
  const std::string how =
      limit.missed ? fmt::format("MISSED by {:.2g} %", 100 * std::abs(limit.taken / limit.limit - 1)) : "kept";
  return fmt::format("{} {} of the limit {}: {}", limit.quantity, figure_text(units, limit.taken),
                     figure_text(units, limit.limit), how);
}

}  // namespace tangram
