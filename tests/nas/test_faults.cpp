// Runs of the whole binary that go wrong: killed (SIGKILL) in the middle of every stage, on a full disk, under limits
// that nothing can meet. Called again, they end with the bytes of a run to which nothing happened.

#include "tests/blocks/damage.h"
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
    for (const auto& [path, content] : found) EXPECT_TRUE(expected.count(path)) << path << " after a kill in " << stage;
    for (const auto& [path, content] : expected)
      EXPECT_TRUE(found.count(path) && found.at(path) == content) << path << " differs after a kill in " << stage;
  }
  EXPECT_GE(kills, 6);  // a short stage, and the run, may be over before its kill
}

TEST(Kill, AgainAndAgainWhileCheckpointsAreWrittenLosesNothing) {
  Search search;
  search.run("whole");
  ASSERT_TRUE(search.succeeded());
  int kills = 0;
  for (int i = 1; i <= 6; ++i) {
    search.run("killed", "distill", search.duration("distill") * i / 9);
    kills += !search.succeeded();
  }
  EXPECT_GE(kills, 2);
  const std::string last = search.run("killed");
  ASSERT_TRUE(search.succeeded()) << last;
  EXPECT_TRUE(search.artefacts("killed") == search.artefacts("whole"));
}

// Steps of the whole checkpoints in a folder, ascending.
std::vector<int64_t> steps_in(const fs::path& folder) {
  std::vector<int64_t> steps;
  std::error_code absent;
  for (const fs::directory_entry& step : fs::directory_iterator(folder, absent))
    if (fs::exists(step.path() / "manifest.json"))
      steps.push_back(std::stoll(step.path().filename().string().substr(5)));
  std::sort(steps.begin(), steps.end());
  return steps;
}

// Kills runs in a stage until one leaves two whole checkpoints in `folder`, below its run directory; their steps.
std::vector<int64_t> kill_behind_two_checkpoints(Search& search, const std::string& run_dir, const std::string& stage,
                                                 const fs::path& folder) {
  for (const int eighths : {4, 5, 3, 6, 2, 7, 4}) {
    fs::remove_all(search.path(run_dir));
    search.run(run_dir, stage, search.duration(stage) * eighths / 8);
    if (const std::vector<int64_t> steps = steps_in(folder); !search.succeeded() && steps.size() >= 2) return steps;
  }
  return {};
}

TEST(Damage, OfTheNewestCheckpointCostsOnlyTheStepsBehindTheOneBefore) {
  Search search;
  search.run("whole");
  ASSERT_TRUE(search.succeeded());
  const auto expected = search.artefacts("whole");
  struct Case {
    const char *stage, *checkpoints, *file, *found;
    std::function<void(const fs::path&)> damage;
  };
  const auto flip = [](std::string& text) { text[text.size() / 2] ^= 1; };
  const Case cases[] = {
      {"distill", "checkpoint", "part-0.safetensors", "its SHA-256 is",
       [&](const fs::path& path) { change_text(path, flip); }},
      {"distill", "checkpoint", "part-0.safetensors", "No such file", [](const fs::path& path) { fs::remove(path); }},
      {"uptrain", "student/checkpoint", "part-0.safetensors", "and the manifest says",
       [](const fs::path& path) { fs::resize_file(path, fs::file_size(path) - 1); }},
      {"uptrain", "student/checkpoint", "manifest.json", "manifest.json",
       [&](const fs::path& path) { change_text(path, flip); }},
  };
  for (const Case& c : cases) {
    const std::string run_dir = fmt::format("damaged-{}", &c - cases);
    const fs::path folder = fs::path(search.path(run_dir)) / "work" / c.stage / c.checkpoints;
    const std::vector<int64_t> steps = kill_behind_two_checkpoints(search, run_dir, c.stage, folder);
    ASSERT_GE(steps.size(), 2u);
    const fs::path newest = folder / fmt::format("step-{}", steps.back());
    c.damage(newest / c.file);
    const std::string printed = search.run(run_dir);
    ASSERT_TRUE(search.succeeded()) << printed;
    const int64_t before = steps[steps.size() - 2];
    for (const std::string& said : {(newest / c.file).string(), std::string(c.found),
                                    fmt::format("the checkpoint of step {} takes its place", before),
                                    fmt::format("goes on after step {} of", before)})
      EXPECT_NE(printed.find(said), std::string::npos) << said << "\n" << printed;
    EXPECT_TRUE(search.artefacts(run_dir) == expected) << c.stage << " " << c.found;
  }
}

TEST(Damage, OfAllCheckpointsIsAnErrorAndNotAFreshStart) {
  Search search;
  search.run("whole");
  const fs::path folder = search.path("run/work/distill/checkpoint");
  for (const int64_t step : kill_behind_two_checkpoints(search, "run", "distill", folder))
    change_text(folder / fmt::format("step-{}/part-0.safetensors", step), [](std::string& text) { text.back() ^= 1; });
  const std::string printed = search.run("run");
  EXPECT_EQ(search.exit_code(), 2) << printed;
  EXPECT_NE(printed.find("none is whole; bring the files back, or delete this folder"), std::string::npos) << printed;
  fs::remove_all(folder);
  search.run("run");
  EXPECT_TRUE(search.succeeded());
  EXPECT_TRUE(search.artefacts("run") == search.artefacts("whole"));
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
  EXPECT_NE(printed.find("the least of any student is"), std::string::npos) << printed;
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
