#include "puzzle/quiet_timer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace tangram {
namespace {

/// A timer that is told whether the machine is quiet, the last word for good, and times what it is told.
struct Script {
  std::vector<bool> quiet;
  std::vector<Runtime> runtimes;
  size_t asked = 0, measured = 0;

  QuietTimer::Timing time() {
    QuietTimer timer([&] { return quiet[std::min(asked++, quiet.size() - 1)]; });
    return timer.time([&] { return runtimes[std::min(measured++, runtimes.size() - 1)]; });
  }
};

TEST(QuietTimer, MeasuresOnceWhereTheMachineIsQuiet) {
  Script script{{true}, {{3, 4}, {1, 1}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 1u);
  EXPECT_FALSE(timing.is_disturbed);
  EXPECT_EQ(timing.runtime.prefill_seconds, 3);
  EXPECT_EQ(timing.runtime.decode_seconds, 4);
}

TEST(QuietTimer, MeasuresAgainWhatWasDisturbedAndKeepsTheSmallest) {
  Script script{{true, false, true}, {{0.3, 0.4}, {0.2, 0.5}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 2u);
  EXPECT_FALSE(timing.is_disturbed);
  EXPECT_EQ(timing.runtime.prefill_seconds, 0.2);
  EXPECT_EQ(timing.runtime.decode_seconds, 0.4);
}

TEST(QuietTimer, IsDisturbedByWhatWasThereBeforeOrAfter) {
  Script script{{false, true, true}, {{3, 4}, {5, 1}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 2u);
  EXPECT_FALSE(timing.is_disturbed);
  EXPECT_EQ(timing.runtime.prefill_seconds, 3);
  EXPECT_EQ(timing.runtime.decode_seconds, 1);
}

TEST(QuietTimer, GivesUpOnAMachineThatStaysBusyAndSaysSo) {
  Script script{{false}, {{3, 4}, {2, 5}, {4, 3}, {1, 1}}};
  const QuietTimer::Timing timing = script.time();
  EXPECT_EQ(script.measured, 3u);
  EXPECT_TRUE(timing.is_disturbed);
  EXPECT_EQ(timing.runtime.prefill_seconds, 2);
  EXPECT_EQ(timing.runtime.decode_seconds, 3);
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
  EXPECT_GT(gauge.slowdown(0.1), 1.5);
  stop = true;
  for (std::thread& thread : spinning) thread.join();
  EXPECT_GE(gauge.slowdown(0.1), 1);
}

}  // namespace
}  // namespace tangram
