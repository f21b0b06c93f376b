#include "puzzle/quiet_timer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace tangram {
namespace {

/// A timer whose gauge reads what it is told, 1 at its fastest, the last word for good; and times what it is told.
struct Script {
  std::vector<double> readings;
  std::vector<Runtime> runtimes;
  size_t asked = 0, measured = 0;
  double fastest = 1;
  QuietTimer timer{[this]() -> LoadGauge::Reading {
    return {readings[std::min(asked++, readings.size() - 1)], fastest};
  }};

  QuietTimer::Timing time() {
    return timer.time([&] { return runtimes[std::min(measured++, runtimes.size() - 1)]; });
  }
};

TEST(QuietTimer, MeasuresOnceWhereTheMachineIsQuiet) {
  Script script{{1.1}, {{3, 4}, {1, 1}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 1u);
  EXPECT_FALSE(script.timer.is_disturbed(timing));
  EXPECT_EQ(timing.runtime.prefill_seconds, 3);
  EXPECT_EQ(timing.runtime.decode_seconds, 4);
}

TEST(QuietTimer, MeasuresAgainWhatWasDisturbedAndKeepsTheSmallest) {
  Script script{{1.1, 1.2, 1.1}, {{0.3, 0.4}, {0.2, 0.5}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 2u);
  EXPECT_FALSE(script.timer.is_disturbed(timing));
  EXPECT_EQ(timing.runtime.prefill_seconds, 0.2);
  EXPECT_EQ(timing.runtime.decode_seconds, 0.4);
}

TEST(QuietTimer, IsDisturbedByWhatWasThereBeforeOrAfter) {
  Script script{{2, 1, 1}, {{3, 4}, {5, 1}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 2u);
  EXPECT_FALSE(script.timer.is_disturbed(timing));
  EXPECT_EQ(timing.runtime.prefill_seconds, 3);
  EXPECT_EQ(timing.runtime.decode_seconds, 1);
}

TEST(QuietTimer, GivesUpOnAMachineThatStaysBusyAndSaysSo) {
  Script script{{1.3}, {{3, 4}, {2, 5}, {4, 3}, {1, 1}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 3u);
  EXPECT_TRUE(script.timer.is_disturbed(timing));
  EXPECT_EQ(timing.runtime.prefill_seconds, 2);
  EXPECT_EQ(timing.runtime.decode_seconds, 3);
}

// What seemed quiet was not, as a faster gauge shows later.
TEST(QuietTimer, JudgesByTheFastestThatThereEverWas) {
  Script script{{1.8}, {{3, 4}}};
  script.fastest = 1.8;
  const QuietTimer::Timing early = script.time();
  EXPECT_EQ(script.measured, 1u);
  EXPECT_FALSE(script.timer.is_disturbed(early));
  script.readings = {1}, script.fastest = 1;
  const QuietTimer::Timing late = script.time();
  EXPECT_TRUE(script.timer.is_disturbed(early));
  EXPECT_FALSE(script.timer.is_disturbed(late));
}

// Threads that spin are the other work: three share each processor with the gauge's own.
TEST(LoadGauge, TellsABusyMachine) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> spinning;
  const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 0; i < 3 * processors; ++i)
    spinning.emplace_back([&] {
      while (!stop) {
      }
    });
  LoadGauge gauge(static_cast<int>(processors));
  const LoadGauge::Reading busy = gauge.read(0.1);
  EXPECT_GT(busy.seconds, 1.5 * busy.fastest);
  stop = true;
  for (std::thread& thread : spinning) thread.join();
  const LoadGauge::Reading later = gauge.read(0.1);
  EXPECT_GE(later.seconds, later.fastest);
  EXPECT_LE(later.fastest, busy.fastest);
}

}  // namespace
}  // namespace tangram
