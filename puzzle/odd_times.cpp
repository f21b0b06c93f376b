#include "puzzle/odd_times.h"

#include <algorithm>

#include "puzzle/costs.h"

namespace tangram {
namespace {

constexpr double kRepeats = 1.3, kFar = 3, kStartSeconds = 5e-6;

/// A part as it is compared: of one phase.
struct Point {
  Choice choice;
  double seconds, weight_bytes, kv_cache_bytes;
};

// Whether a takes longer than b allows.
bool is_odd_beside(const Point& a, const Point& b, double passes) {
  if (a.choice.variant->subblock != b.choice.variant->subblock || !(a.seconds > 0) || !(b.seconds > 0)) return false;
  const auto exceeds = [&](double bound) { return a.seconds > bound + passes * kStartSeconds; };
  if (a.choice.variant == b.choice.variant && a.choice.variant->sized) {
    if (a.choice.size < b.choice.size) return exceeds(kRepeats * b.seconds);
    return a.choice.size > b.choice.size && exceeds(kFar * b.seconds * double(a.choice.size) / double(b.choice.size));
  }
  return a.choice.variant != b.choice.variant && a.weight_bytes <= b.weight_bytes &&
         a.kv_cache_bytes <= b.kv_cache_bytes && exceeds(kFar * b.seconds);
}

}  // namespace

std::vector<OddTime> odd_times(std::span<const PartTime> parts, const ModelConfig& config, const Scenario& scenario) {
  std::vector<OddTime> odd;
  for (const bool is_decode : {false, true}) {
    const double passes = double(is_decode ? std::max<int64_t>(scenario.output_tokens - 1, 1) : scenario.concurrency);
    std::vector<Point> points;
    for (const PartTime& p : parts)
      points.push_back({p.choice, is_decode ? p.runtime.decode_seconds : p.runtime.prefill_seconds,
                        weight_bytes(p.choice, config, scenario), kv_cache_bytes(p.choice, config, scenario)});
    for (size_t a = 0; a < points.size(); ++a) {
      const auto b = std::find_if(points.begin(), points.end(),
                                  [&](const Point& other) { return is_odd_beside(points[a], other, passes); });
      if (b != points.end()) odd.push_back({a, static_cast<size_t>(b - points.begin()), is_decode});
    }
  }
  return odd;
}

}  // namespace tangram
