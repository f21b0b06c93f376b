#pragma once
#include <functional>
#include <vector>

#include "puzzle/measure.h"

namespace tangram {

/// Tells how much other processes take from this one. Every thread repeats a small piece of work of its own (8 Mflop,
/// and 1 MiB read) that is much shorter than a time slice, so that some repeats are undisturbed however busy the
/// machine is, and what they take together shows how busy that is.
class LoadGauge {
 public:
  explicit LoadGauge(int threads);

  /// The mean over `seconds`, of the thread that is worst off, in times of the fastest repeat there ever was: 1 on a
  /// quiet machine, 2 where every processor is shared with one other process.
  double slowdown(double seconds);

 private:
  std::vector<std::vector<float>> memory_;  // (threads)
  double fastest_;
};

/// Times parts of models when the machine is quiet: where a gauge before or after a timing tells that it is not, it
/// times again a moment later, and of all tries the smallest counts. What is disturbed in every try is said to be. Of a
/// GPU only the processor is watched that starts its kernels.
class QuietTimer {
 public:
  explicit QuietTimer(const Context& ctx);
  /// With another way to tell whether the machine is quiet.
  explicit QuietTimer(std::function<bool()> is_quiet) : is_quiet_(std::move(is_quiet)) {}

  struct Timing {
    Runtime runtime;
    bool is_disturbed = false;
  };
  Timing time(const std::function<Runtime()>& measure);

  static constexpr double kMostSlowdown = 1.15;  ///< of a quiet machine
  static constexpr int kTries = 3;

 private:
  std::function<bool()> is_quiet_;
};

}  // namespace tangram
