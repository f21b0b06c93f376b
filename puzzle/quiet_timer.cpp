#include "puzzle/quiet_timer.h"

#include <algorithm>
#include <chrono>
#include <thread>

namespace tangram {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr size_t kFloats = size_t{1} << 18;
constexpr int kLanes = 64, kSteps = 1 << 16;  // 2 flop a lane and step

// 0.2 to 0.5 ms. Returns something of all that it computed, so that a compiler cannot leave it out.
float reference_work(const std::vector<float>& memory) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = memory[static_cast<size_t>(i)];
  for (int step = 0; step < kSteps; ++step)
    for (float& lane : lanes) lane = lane * 0.5f + 1.0f;
  for (size_t i = 0; i < kFloats; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += memory[i + j];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace

LoadGauge::LoadGauge(int threads)
    : memory_(static_cast<size_t>(threads), std::vector<float>(kFloats, 1.0f)),
      fastest_(std::numeric_limits<double>::infinity()) {
  read(0.02);  // finds the fastest
}

LoadGauge::Reading LoadGauge::read(double seconds) {
  std::vector<double> means(memory_.size()), least(memory_.size(), fastest_);
  std::vector<float> results(memory_.size());
#pragma omp parallel for num_threads(int(memory_.size())) schedule(static, 1)
  for (size_t t = 0; t < memory_.size(); ++t) {
    const auto start = Clock::now();
    int count = 0;
    for (double all = 0; all < seconds; ++count) {
      const double before = all;
      results[t] += reference_work(memory_[t]);
      all = seconds_since(start);
      least[t] = std::min(least[t], all - before);
    }
    means[t] = seconds_since(start) / std::max(count, 1);
  }
  fastest_ = *std::min_element(least.begin(), least.end());
  return {*std::max_element(means.begin(), means.end()), fastest_};
}

QuietTimer::QuietTimer(const Context& ctx)
    : gauge_([gauge = LoadGauge(ctx.device == Device::cuda ? 1 : ctx.threads)]() mutable { return gauge.read(0.01); }) {
}

double QuietTimer::read() {
  const LoadGauge::Reading reading = gauge_();
  fastest_ = reading.fastest;
  return reading.seconds;
}

QuietTimer::Timing QuietTimer::time(const std::function<Runtime()>& measure) {
  Timing timing;
  for (int i = 0; i < kTries; ++i) {
    if (i > 0) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const double before = read();
    const Runtime now = measure();
    timing.gauge_seconds = std::max(before, read());
    timing.runtime = i == 0 ? now
                            : Runtime{std::min(timing.runtime.prefill_seconds, now.prefill_seconds),
                                      std::min(timing.runtime.decode_seconds, now.decode_seconds)};
    if (!is_disturbed(timing)) break;
  }
  return timing;
}

}  // namespace tangram
