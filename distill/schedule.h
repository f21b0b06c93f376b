#pragma once
#include <cstdint>

namespace tangram {

/// How the learning rate falls at the end of a run.
enum class Decay : uint8_t { linear, cosine };

/// The learning rate of a training run: a linear rise, a plateau, and a fall. With W = warmup_steps, D = decay_start,
/// S = steps and f = final_fraction, step s (from 0) has learning_rate_peak times
///
///   (s + 1) / W                              s < W
///   1                                        W <= s < D
///   1 - (1 - f) t           (linear)         D <= s < S,   t = (s - D) / (S - D)
///   f + (1 - f) (1 + cos(pi t)) / 2 (cosine)
///   f                                        S <= s
///
/// So no step of the run has rate 0, not even where f is 0. A pure function of the step: a run that resumes needs no
/// more than its step.
struct Schedule {
  double learning_rate_peak = 1e-4;
  int64_t steps = 1;
  int64_t warmup_steps = 0;
  int64_t decay_start = 0;  ///< first step of the fall; `steps` for none. Taken as warmup_steps if it lies before that.
  double final_fraction = 0;
  Decay decay = Decay::linear;

  /// Throws Error if `step` is negative, or the rise and the fall do not fit into `steps`.
  double learning_rate(int64_t step) const;
};

}  // namespace tangram
