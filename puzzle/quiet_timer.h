#pragma once
#include <functional>
#include <limits>
#include <vector>

#include "puzzle/measure.h"

namespace tangram {

/// Tells how much other processes take from this one. Every thread repeats a small piece of work of its own (8 Mflop,
/// and 1 MiB read) that is much shorter than a time slice, so that some repeats are undisturbed however busy the
/// machine is, and what they take together shows how busy that is.
class LoadGauge {
 public:
  explicit LoadGauge(int threads);

  struct Reading {
    double seconds;  ///< of a repeat, on average of the thread that is worst off
    double fastest;  ///< repeat that there ever was
  };
  /// Of repeats for so long. On a quiet machine both are about equal; `seconds` is twice `fastest` where every
  /// processor is shared with one other process.
  Reading read(double seconds);

 private:
  std::vector<std::vector<float>> memory_;  // (threads)
  double fastest_;
};

/// Times parts of models when the machine is quiet: where a gauge before or after a timing tells that it is not, it
/// times again a moment later, and of all tries the smallest counts. Of a GPU only the processor is watched that starts
/// its kernels.
class QuietTimer {
 public:
  explicit QuietTimer(const Context& ctx);
  /// With another gauge.
  explicit QuietTimer(std::function<LoadGauge::Reading()> gauge) : gauge_(std::move(gauge)) {}

  struct Timing {
    Runtime runtime;
    double gauge_seconds = 0;  ///< the gauge's, before or after the last try
  };
  Timing time(const std::function<Runtime()>& measure);

  /// Whether the machine was busy, or slow, around a timing in all its tries: the gauge took over 15 % longer than it
  /// did at its fastest, until now. So ask when all is measured.
  bool is_disturbed(const Timing& timing) const { return timing.gauge_seconds > 1.15 * fastest_; }

  static constexpr int kTries = 3;

 private:
  double read();

  std::function<LoadGauge::Reading()> gauge_;
  double fastest_ = std::numeric_limits<double>::infinity();
};

}  // namespace tangram
