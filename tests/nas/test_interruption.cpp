#include "nas/interruption.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/context.h"
#include "nas/training_loop.h"
#include "tests/nas/command_line.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

/// A training whose state is the sum of its steps' numbers.
struct Counting {
  explicit Counting(const fs::path& folder) : folder_(folder) {}

  void run(int64_t steps, int64_t signal_in = -1, int signal = SIGUSR1) {
    Capture log;
    Console console(log.file, false, false);
    Context ctx(Context::Options{.threads = 1});
    taken.clear();
    run_training({.label = "count",
                  .steps = steps,
                  .tokens_per_step = 10,
                  .checkpoints = folder_ / "checkpoint",
                  .state =
                      [&] {
                        return std::vector<NamedTensor>{{"sum", view_of(&sum, 1, 1)}};
                      },
                  .start = [&] { sum = 0; },
                  .resume = [](int64_t) {},
                  .step =
                      [&](int64_t step, bool is_last) {
                        sum += float(step);
                        taken.push_back(step);
                        was_last = is_last;
                        if (step == signal_in) raise(signal);
                        return std::vector<float>{sum};
                      },
                  .note = [](std::span<const float> row) { return fmt::format("sum {}", row[0]); }},
                 curve, console, ctx);
  }

  fs::path folder_;
  float sum = 0;
  bool was_last = false;
  std::vector<int64_t> taken;
  LossCurve curve{.columns = {"sum"}, .values = {}};
};

class InterruptionTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder);
  }
  const fs::path folder = fs::path(testing::TempDir()) / fmt::format("interruption_{}", getpid());
};

TEST_P(InterruptionTest, KeepsTheStepAndGoesOnBehindIt) {
  Counting counting(folder);
  {
    const ListenForInterruption listen;
    try {
      counting.run(10, 3, GetParam());
      FAIL() << "not interrupted";
    } catch (const Error& e) {
      EXPECT_EQ(static_cast<int>(e.failure), 75);
      EXPECT_THAT(e.what(), testing::HasSubstr("behind step 5 of 10 of count"));
    }
    EXPECT_TRUE(counting.was_last);
    EXPECT_THROW(stop_if_interrupted("before the next"), Error);
  }
  nlohmann::json progress;
  std::ifstream(folder / "progress.json") >> progress;
  EXPECT_EQ(progress.at("steps"), 10);
  const ListenForInterruption listen;  // of a new process
  stop_if_interrupted("nowhere");
  counting.run(10);
  EXPECT_EQ(counting.taken, (std::vector<int64_t>{5, 6, 7, 8, 9}));
  EXPECT_EQ(counting.sum, 45);
  EXPECT_EQ(counting.curve.values[2], 0 + 1 + 2);
}

TEST_P(InterruptionTest, InTheLastStepEndsAsAlways) {
  const ListenForInterruption listen;
  Counting counting(folder);
  counting.run(4, 3, GetParam());
  EXPECT_EQ(counting.sum, 6);
}

TEST_P(InterruptionTest, ASecondSignalKillsButForUsr1) {
  const auto twice = [&] {
    const ListenForInterruption listen;
    raise(SIGTERM);
    raise(GetParam());
    _exit(7);
  };
  if (GetParam() == SIGUSR1)
    EXPECT_EXIT(twice(), testing::ExitedWithCode(7), "");
  else
    EXPECT_EXIT(twice(), testing::KilledBySignal(GetParam()), "");
}

INSTANTIATE_TEST_SUITE_P(Signals, InterruptionTest, testing::Values(SIGUSR1, SIGTERM, SIGINT),
                         [](const auto& p) { return std::string(sigabbrev_np(p.param)); });

}  // namespace
}  // namespace tangram
