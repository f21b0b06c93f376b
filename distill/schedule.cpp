#include "distill/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/error.h"

namespace tangram {

double Schedule::learning_rate(int64_t step) const {
  CHECK(step >= 0, "step {}", step);
  CHECK(0 <= warmup_steps && warmup_steps <= steps && 0 <= decay_start && decay_start <= steps,
        "warm-up of {} and decay from {} in {} steps", warmup_steps, decay_start, steps);
  if (step < warmup_steps) return learning_rate_peak * double(step + 1) / double(warmup_steps);
  if (step >= steps) return learning_rate_peak * final_fraction;
  const int64_t start = std::max(decay_start, warmup_steps);
  if (step < start) return learning_rate_peak;
  const double t = double(step - start) / double(steps - start);
  const double left = decay == Decay::linear ? 1 - t : (1 + std::cos(std::numbers::pi * t)) / 2;
  return learning_rate_peak * (final_fraction + (1 - final_fraction) * left);
}

}  // namespace tangram
