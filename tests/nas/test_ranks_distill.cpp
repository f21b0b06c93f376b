// The stage distill on as many processes as mpirun starts. Oracle: the bytes of one process that does all of it at
// once.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <map>
#include <thread>

#include "nas/interruption.h"
#include "nas/rank_speeds.h"
#include "nas/run_files.h"
#include "nas/stage_distill.h"
#include "tests/kernels/test_ranks.h"
#include "tests/nas/command_line.h"
#include "tests/nas/search_folder.h"

namespace tangram {
namespace {

using testing::HasSubstr;

std::map<std::string, std::string> files_in(const fs::path& run) {
  std::map<std::string, std::string> files{{"distill.csv", read_text_file(run / "distill.csv", 1 << 26)}};
  for (const fs::directory_entry& file : fs::recursive_directory_iterator(run / "library"))
    if (file.is_regular_file())
      files[file.path().lexically_relative(run).string()] = read_text_file(file.path(), 1 << 26);
  return files;
}

/// How many folders of `work` have a whole checkpoint.
size_t begun_folders(const fs::path& work) {
  size_t count = 0;
  std::error_code gone;
  for (const fs::directory_entry& folder : fs::directory_iterator(work, gone))
    for (const fs::directory_entry& step : fs::directory_iterator(folder.path(), gone))
      if (fs::exists(step.path() / "manifest.json")) {
        ++count;
        break;
      }
  return count;
}

class RanksDistill : public testing::Test {
 protected:
  void SetUp() override {
    if (world().rank() == 0) {
      fs::remove_all(folder);
      write_search_folder(folder);
    }
    world().barrier();
    config = read_search_config(folder / "search.yaml",
                                std::vector<std::string>{"distill.shards=2", "distill.tokens=76800"});
    teacher = load_teacher(config, folder, config.distill.training.dtype).config;
    if (world().rank() == 0) {
      Communicator alone;
      for (const char* name : {"alone", "ranks"}) {
        const fs::path run = folder / name;
        for (const Stage& stage : all_stages())
          if (stage.name == "prepare") stage.run({config, run, run / "work/prepare", ctx, silent, alone});
      }
      distill("alone", {}, alone);
    }
    world().barrier();
  }
  void TearDown() override {
    world().barrier();
    if (world().rank() == 0) fs::remove_all(folder);
  }

  /// On the ranks of `group`, until as many folders have a checkpoint (0: to the end). What it said.
  std::string distill(const std::string& name, const RankLimits& limits, Communicator& group, size_t folders = 0) {
    const ListenForInterruption listen;
    const fs::path run = folder / name, work = run / "work/distill";
    Capture log;
    Console console(log.file, false, false);
    std::atomic<bool> done = folders == 0 || group.rank() != 0;
    std::thread watcher([&] {
      while (!done && begun_folders(work) < folders) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (!done) raise(SIGUSR1);
    });
    bool interrupted = false;
    try {
      run_distill_breadth_first({config, run, work, ctx, console, group}, limits);
    } catch (const Error& e) {
      interrupted = e.failure == kInterrupted;
      EXPECT_TRUE(interrupted) << e.what();
    }
    done = true;
    watcher.join();
    return log.text() + (interrupted ? "interrupted" : "");
  }

  /// As much memory a rank as makes so many waves of it, or as many as can be.
  RankLimits limits_for(size_t waves, int64_t ranks) const {
    RankLimits limits{.memory_bytes = int64_t{1} << 26};
    while (true) try {
        RankLimits less = limits;
        less.memory_bytes = *limits.memory_bytes * 49 / 50;
        if (distill_grid(config, teacher, ranks, less).waves.size() > waves) return limits;
        limits = less;
      } catch (const Error&) {
        return limits;
      }
  }

  void expect_same_as_alone() const {
    world().barrier();  // as the pipeline does: others may still write
    if (world().rank() != 0) return;
    EXPECT_EQ(files_in(folder / "ranks"), files_in(folder / "alone"));
  }

  const fs::path folder = fs::temp_directory_path() / fmt::format("tangram-ranks-distill-{}", world().size());
  Context ctx{Context::Options{.threads = 1}};
  Console silent{stderr, false, true};
  SearchConfig config;
  ModelConfig teacher;
};

TEST_F(RanksDistill, SlowRanksGetLessAndTheBytesStayTheSame) {
  RankLimits limits;
  for (int r = 0; r < world().size(); ++r) limits.speeds.push_back(r == 0 ? 1 : 0.25);
  const DistillGrid even = distill_grid(config, teacher, world().size(), {}),
                    uneven = distill_grid(config, teacher, world().size(), limits);
  if (even.stages.size() > 1) {
    EXPECT_GT(uneven.stages[0].unit_count, even.stages[0].unit_count);
  }
  const std::string log = distill("ranks", limits, tangram::world());
  if (world().rank() == 0 && world().size() > 1) {
    EXPECT_THAT(log, HasSubstr("for ranks of the speeds 1.00 0.25"));
  }
  expect_same_as_alone();
}

// 2 waves on all ranks, stopped in the second; more of them on one rank less, stopped when it has begun a part of what
// is left of that one; the rest at once on all ranks.
TEST_F(RanksDistill, WavesGoOnOnFewerRanksAndOnMore) {
  const int all = world().size(), fewer = std::max(1, all - 1);
  const std::string first = distill("ranks", limits_for(2, all), tangram::world(), 2);
  EXPECT_THAT(first, HasSubstr("interrupted"));
  Communicator group = world().split(world().rank() < fewer ? 0 : 1, world().rank());
  if (world().rank() < fewer) {
    const std::string second = distill("ranks", limits_for(4, fewer), group, 3);
    if (world().rank() == 0) {
      EXPECT_THAT(second, HasSubstr("goes on after step 300 of 300"));  // what is done is not done again
    }
  }
  world().barrier();
  const std::string last = distill("ranks", {}, tangram::world());
  if (world().rank() == 0) {
    EXPECT_THAT(last, HasSubstr("goes on after step"));
  }
  expect_same_as_alone();
}

TEST(RankSpeeds, AreThoseOfAllRanksOnEveryRank) {
  Context ctx{Context::Options{.threads = 1}};
  const std::vector<double> rates = product_rates(world(), DType::f32, ctx);
  ASSERT_EQ(std::ssize(rates), world().size());
  for (const double rate : rates) EXPECT_GT(rate, 1e6);
  world().same_everywhere(fmt::format("{}", fmt::join(rates, " ")), "rates");
}

TEST(RankSpeeds, OfNearlyTheSameAreTheSame) {
  const double rates[] = {5e12, 10e12, 9e12, 2e12};
  EXPECT_THAT(relative_speeds(rates), testing::ElementsAre(0.5, 1, 1, 0.2));
}

}  // namespace
}  // namespace tangram
