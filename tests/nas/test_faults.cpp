// Runs of the whole binary that go wrong: killed (SIGKILL) in the middle of every stage, on a full disk, under limits
// that nothing can meet. Called again, they end with the bytes of a run to which nothing happened.

#include "tests/nas/search_process.h"

namespace tangram {
namespace {

TEST(Kill, InTheMiddleOfEveryStageLosesNothing) {
  Search search;
  const std::string printed = search.run("whole");
  ASSERT_TRUE(search.succeeded()) << printed;
  const auto expected = search.artefacts("whole");
  ASSERT_GT(expected.size(), 30u);

  int kills = 0;
  for (const std::string stage : kStages) {
    const std::string run_dir = "killed-" + stage;
    search.run(run_dir, stage, search.duration(stage) / 2);
    kills += !search.succeeded();
    const std::string last = search.run(run_dir);
    ASSERT_TRUE(search.succeeded()) << last;
    const auto found = search.artefacts(run_dir);
    EXPECT_EQ(found.size(), expected.size()) << stage;
    for (const auto& [path, content] : expected)
      EXPECT_TRUE(found.count(path) && found.at(path) == content) << path << " differs after a kill in " << stage;
  }
  EXPECT_GE(kills, 6);  // a short stage, and the run, may be over before its kill
}

TEST(Run, SecondCallRepeatsNothing) {
  Search search;
  search.run("run");
  ASSERT_TRUE(search.succeeded());
  const std::string again = search.run("run");
  ASSERT_TRUE(search.succeeded());
  for (const char* stage :
       {"prepare", "distill", "score", "measure", "search", "uptrain", "evaluate", "export", "report"})
    EXPECT_NE(again.find(std::string(stage) + ": complete"), std::string::npos) << stage << "\n" << again;
}

TEST(Run, PreparedTokensServeAnotherRun) {
  Search search;
  search.run("run");
  ASSERT_TRUE(search.succeeded());
  search.setting = fmt::format("data.train=[{}]", search.path("run/tokens/train"));
  const std::string printed = search.run("other");
  ASSERT_TRUE(search.succeeded()) << printed;
  const auto expected = search.artefacts("run"), found = search.artefacts("other");
  EXPECT_EQ(found.count("tokens/train/tokens-00000.safetensors"), 0u);
  EXPECT_TRUE(found.at("distill.csv") == expected.at("distill.csv"));
  EXPECT_TRUE(found.at("evaluation.json") == expected.at("evaluation.json"));
}

TEST(Run, LimitsThatNothingMeetsAreAnAnswer) {
  Search search;
  search.setting = "constraints.memory=1%";
  const std::string printed = search.run("run");
  EXPECT_EQ(search.exit_code(), 3) << printed;
  EXPECT_NE(printed.find("memory (s): at most"), std::string::npos) << printed;
  EXPECT_NE(printed.find("the least attainable by any student is"), std::string::npos) << printed;
  // What was finished stays, and another limit needs only the search and what follows it.
  search.setting = "constraints.memory=80%";
  const std::string again = search.run("run");
  EXPECT_TRUE(search.succeeded()) << again;
  EXPECT_NE(again.find("measure: complete"), std::string::npos) << again;
}

TEST(Run, NeedsNothingToTrain) {
  Search search;
  search.setting = "search_space={attention: [no_op], ffn: [no_op]}";
  const std::string printed = search.run("run");
  EXPECT_TRUE(search.succeeded()) << printed;
}

TEST(Run, AFullDiskIsNamedAndCostsOnlyTheStageAtWork) {
  Search search;
  search.run("whole");
  ASSERT_TRUE(search.succeeded());
  search.file_bytes_at_most = 100'000;  // less than a checkpoint of all variants
  const std::string printed = search.run("full");
  EXPECT_EQ(search.exit_code(), 1) << printed;
  EXPECT_NE(printed.find("File too large"), std::string::npos) << printed;
  search.file_bytes_at_most = 0;
  const std::string again = search.run("full");
  ASSERT_TRUE(search.succeeded()) << again;
  EXPECT_NE(again.find("prepare: complete"), std::string::npos) << again;
  const auto expected = search.artefacts("whole"), found = search.artefacts("full");
  EXPECT_TRUE(found == expected);
}

}  // namespace
}  // namespace tangram
