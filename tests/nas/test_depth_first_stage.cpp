// The distill stage depth first, as a whole process: the files of breadth first, whatever it is killed in and in
// whichever waves it runs.

#include "tests/nas/search_process.h"

namespace tangram {
namespace {

using std::chrono::microseconds;

// The library and the loss curves: all that distill makes.
std::map<std::string, std::string> distilled(const Search& search, const std::string& run_dir) {
  std::map<std::string, std::string> all;
  for (const auto& [path, content] : search.artefacts(run_dir))
    if (path.starts_with("library/") || path == "distill.csv") all[path] = content;
  return all;
}

struct DepthFirstStage : testing::Test {
  Search search;
  std::map<std::string, std::string> expected;

  void SetUp() override {
    const std::string printed = search.run("breadth");
    ASSERT_TRUE(search.succeeded()) << printed;
    expected = distilled(search, "breadth");
    ASSERT_EQ(expected.size(), 3u * 5 + 2 + 1);
    search.setting = "distill.order=depth_first";
    EXPECT_TRUE(search.call({"prepare"}, "depth").find("prepare: done") != std::string::npos);
  }
  void expect_complete(const std::string& printed) {
    ASSERT_TRUE(search.succeeded()) << printed;
    EXPECT_NE(printed.find("distill: done"), std::string::npos) << printed;
    EXPECT_TRUE(distilled(search, "depth") == expected);
    EXPECT_FALSE(fs::exists(search.path("depth/work/distill")));
  }
};

TEST_F(DepthFirstStage, MakesTheFilesOfBreadthFirst) {
  const std::string printed = search.call({"distill"}, "depth");
  expect_complete(printed);
  EXPECT_NE(printed.find("of boundaries read in"), std::string::npos) << printed;
  // The order is no input: what one has made, the other need not make again.
  search.setting = "distill.order=breadth_first";
  EXPECT_NE(search.call({"distill"}, "depth").find("distill: complete"), std::string::npos);
}

TEST_F(DepthFirstStage, AKillAtAnyMomentLosesNothing) {
  fs::copy(search.path("depth"), search.path("timed"), fs::copy_options::recursive);
  const auto begin = std::chrono::steady_clock::now();
  search.call({"distill"}, "timed");
  ASSERT_TRUE(search.succeeded());
  const auto whole = std::chrono::duration_cast<microseconds>(std::chrono::steady_clock::now() - begin);
  int kills = 0;
  for (int i = 1; i <= 8; ++i) {
    search.call({"distill"}, "depth", "distill", whole * i / 20);
    kills += !search.succeeded();
  }
  EXPECT_GE(kills, 2);
  const std::string printed = search.call({"distill"}, "depth");
  ASSERT_TRUE(search.succeeded()) << printed;
  EXPECT_TRUE(distilled(search, "depth") == expected);
}

TEST_F(DepthFirstStage, WavesInAnyOrderMakeTheSameFiles) {
  const std::string last = search.call({"distill", "--wave", "layers=2:3"}, "depth");
  ASSERT_TRUE(search.succeeded()) << last;
  EXPECT_NE(last.find("the boundary before layer 2 is not there; computing it through layers 0 to 1"),
            std::string::npos)
      << last;
  EXPECT_NE(last.find("distill: these layers done"), std::string::npos) << last;
  const std::string first = search.call({"distill", "--wave", "layers=0:1"}, "depth");
  EXPECT_NE(first.find("distill: these layers done"), std::string::npos) << first;
  const std::string middle = search.call({"distill", "--wave", "layers=1:2"}, "depth");
  EXPECT_NE(middle.find("the boundary before layer 1 is there"), std::string::npos) << middle;
  expect_complete(middle);
}

TEST_F(DepthFirstStage, RefusesWavesThatMeanNothing) {
  for (const char* wave : {"layers=2:2", "layers=3:1", "layers=a:b", "layer=0:1", "0:1", "layers=-1:2"}) {
    const std::string printed = search.call({"distill", "--wave", wave}, "depth");
    EXPECT_EQ(search.exit_code(), 2) << printed;
    EXPECT_NE(printed.find("--wave"), std::string::npos) << printed;
  }
  const std::string beyond = search.call({"distill", "--wave", "layers=0:4"}, "depth");
  EXPECT_NE(beyond.find("the teacher's layers are 0:3"), std::string::npos) << beyond;
  search.setting = "distill.order=breadth_first";
  const std::string breadth = search.call({"distill", "--wave", "layers=0:1"}, "depth");
  EXPECT_EQ(search.exit_code(), 2);
  EXPECT_NE(breadth.find("distill.order=depth_first"), std::string::npos) << breadth;
}

TEST_F(DepthFirstStage, RefusesADiskThatIsTooSmall) {
  search.setting = "distill={order: depth_first, tokens: 1e15, batch_tokens: 256, micro_batches: 2}";
  const std::string printed = search.call({"distill"}, "depth");
  EXPECT_EQ(search.exit_code(), 2) << printed;
  EXPECT_NE(printed.find("2 boundaries of 114 PiB"), std::string::npos) << printed;
  EXPECT_NE(printed.find("lower distill.tokens to at most"), std::string::npos) << printed;
}

}  // namespace
}  // namespace tangram
