#include "distill/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/error.h"

namespace tangram {
namespace {

// Four roundings of numbers up to the peak.
constexpr double kTolerance = 4 * 0x1p-53;

TEST(Schedule, HandWorkedLinear) {
  const Schedule s{.learning_rate_peak = 1,
                   .steps = 10,
                   .warmup_steps = 2,
                   .decay_start = 6,
                   .final_fraction = 0.2,
                   .decay = Decay::linear};
  const double want[] = {0.5, 1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2};
  for (int64_t step = 0; step < 12; ++step) EXPECT_NEAR(s.learning_rate(step), want[step], kTolerance) << step;
}

TEST(Schedule, HandWorkedCosine) {
  const Schedule s{.learning_rate_peak = 2,
                   .steps = 8,
                   .warmup_steps = 0,
                   .decay_start = 2,
                   .final_fraction = 0.5,
                   .decay = Decay::cosine};
  // t = 1/6, 1/3, 1/2, 2/3, 5/6 of pi: cosines sqrt(3)/2, 1/2, 0, -1/2, -sqrt(3)/2; the rate is 1.5 + cos / 2.
  const double root = 0.8660254037844386;
  const double want[] = {2, 2, 2, 1.5 + root / 2, 1.75, 1.5, 1.25, 1.5 - root / 2, 1};
  for (int64_t step = 0; step < 9; ++step) EXPECT_NEAR(s.learning_rate(step), want[step], 2 * kTolerance) << step;
}

TEST(Schedule, NoStepOfARunIsWastedAndNoneExceedsThePeak) {
  for (Decay decay : {Decay::linear, Decay::cosine})
    for (int64_t warmup : {0, 1, 7})
      for (int64_t start : {0, 7, 19, 20}) {
        const Schedule s{.learning_rate_peak = 3e-3,
                         .steps = 20,
                         .warmup_steps = warmup,
                         .decay_start = start,
                         .final_fraction = 0,
                         .decay = decay};
        double before = 0;
        for (int64_t step = 0; step < 20; ++step) {
          const double rate = s.learning_rate(step);
          EXPECT_GT(rate, 0) << step;
          EXPECT_LE(rate, 3e-3) << step;
          if (step > 0 && step < warmup) {
            EXPECT_GT(rate, before) << step;
          }
          if (step > std::max(warmup, start)) {
            EXPECT_LT(rate, before) << step;
          }
          before = rate;
        }
        EXPECT_EQ(s.learning_rate(20), 0);
      }
}

TEST(Schedule, WarmupOverDecayStart) {
  const Schedule s{.learning_rate_peak = 1, .steps = 6, .warmup_steps = 4, .decay_start = 1};
  const double want[] = {0.25, 0.5, 0.75, 1, 1, 0.5};
  for (int64_t step = 0; step < 6; ++step) EXPECT_NEAR(s.learning_rate(step), want[step], kTolerance) << step;
}

TEST(Schedule, RefusesWhatDoesNotFit) {
  EXPECT_THROW(Schedule{}.learning_rate(-1), Error);
  EXPECT_THROW((Schedule{.steps = 5, .warmup_steps = 6}.learning_rate(0)), Error);
  EXPECT_THROW((Schedule{.steps = 5, .decay_start = 6}.learning_rate(0)), Error);
  EXPECT_THROW((Schedule{.steps = 5, .warmup_steps = -1}.learning_rate(0)), Error);
}

}  // namespace
}  // namespace tangram
