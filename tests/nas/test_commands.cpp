#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "tests/nas/command_line.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

void append(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::app) << text; }

/// A stage that notes that it ran, and reads and writes one file.
std::vector<fs::path> run_make(const StageInput& in) {
  append(in.run_dir / "ran.log", "make ");
  write_file_atomically(in.run_dir / "made", fmt::format("{}", in.config.distill.training.tokens / 1'000'000));
  return {in.run_dir / "made"};
}

std::vector<fs::path> run_use(const StageInput& in) {
  append(in.run_dir / "ran.log", "use ");
  if (in.config.seed == 13) throw Error("infeasible: no student keeps memory 1 GiB", Failure::infeasible);
  write_file_atomically(in.run_dir / "used", "done");
  return {in.run_dir / "used"};
}

const std::vector<Stage> kStages = {{"make", "Make it", {"teacher", "distill"}, {}, run_make},
                                    {"use", "Use it", {"seed"}, {"make"}, run_use}};

const std::vector<ModelVerb> kVerbs = {
    {"weigh", "Weigh a model", "tangram weigh models/llama",
     [](CLI::App& app) -> std::function<void(const VerbInput&)> {
       const auto folder = std::make_shared<std::string>();
       app.add_option("FOLDER", *folder)->required();
       return [folder](const VerbInput& in) { fmt::print(in.out, "{} weighs {}\n", *folder, in.threads); };
     }},
    {"use", "Use a model", "tangram use models/llama",
     [](CLI::App& app) -> std::function<void(const VerbInput&)> {
       const auto folder = std::make_shared<std::string>();
       app.add_option("FOLDER", *folder)->required();
       return [folder](const VerbInput& in) { fmt::print(in.out, "{} used\n", fs::path(*folder).filename().string()); };
     }},
};

class CommandsTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder / "teacher");
    append(folder / "teacher/config.json", "{}");
    append(folder / "text", "text");
    append(folder / "c.yaml", "teacher: teacher\ndata: {train: [text], validation: [text]}\nrun_dir: run\n");
  }

  Outcome call(const std::vector<std::string>& arguments) { return call_with(arguments, kStages, kVerbs); }
  std::string ran() {
    std::stringstream text;
    text << std::ifstream(folder / "run/ran.log").rdbuf();
    return text.str();
  }

  const fs::path folder = fs::path(testing::TempDir()) /
                          fmt::format("commands_{}", testing::UnitTest::GetInstance()->current_test_info()->name());
  const std::string config = folder / "c.yaml";
};

TEST_F(CommandsTest, RunSkipsWhatIsComplete) {
  const Outcome first = call({"run", config});
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, StartsWith("Results are in "));
  EXPECT_THAT(first.err, StartsWith("make: not run yet\nmake: done in "));
  EXPECT_EQ(call({"run", config}).err, "make: complete\nuse: complete\n");
  EXPECT_EQ(ran(), "make use ");
}

TEST_F(CommandsTest, AStageRunsAgainExactlyWhenItsInputsChange) {
  call({"run", config});
  EXPECT_EQ(call({"run", config, "--set", "seed=2"}).code, 0);
  EXPECT_EQ(ran(), "make use use ");
  // Another setting of `make` that makes the same file leaves `use` as it is; one that makes another does not.
  call({"run", config, "--set", "seed=2", "--set", "distill.tokens=100000001"});
  EXPECT_EQ(ran(), "make use use make ");
  call({"run", config, "--set", "seed=2", "--set", "distill.tokens=2e8"});
  EXPECT_EQ(ran(), "make use use make make use ");
  call({"make", "--again", "--set", "distill.tokens=2e8", config});
  EXPECT_EQ(ran(), "make use use make make use make ");
  append(folder / "teacher/config.json", " ");
  EXPECT_THAT(call({"run", config}).err, HasSubstr("belongs to another teacher"));
}

TEST_F(CommandsTest, ShardsIsShortForAKey) {
  ASSERT_EQ(call({"run", config, "--set", "distill.micro_batches=8", "--shards", "4"}).code, 0);
  const SearchConfig kept = read_search_config(folder / "run/config.yaml");
  EXPECT_EQ(kept.distill.training.shards, 4);
  EXPECT_EQ(kept.uptrain.training.shards, 1);
  const Outcome refused = call({"run", config, "--set", "distill.micro_batches=8", "--shards", "3"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("distill.shards"));
  EXPECT_EQ(call({"use", config, "--shards", "4"}).code, 2);  // a stage that has none
}

TEST_F(CommandsTest, AStageVerbNeedsItsPredecessors) {
  const Outcome early = call({"use", config});
  EXPECT_EQ(early.code, 2);
  EXPECT_EQ(early.err,
            "tangram: " + (folder / "run").string() +
                ": use reads what make makes, and make is to run first (not run yet): tangram make CONFIG.yaml\n");
  EXPECT_EQ(call({"make", config}).code, 0);
  EXPECT_EQ(call({"use", config}).code, 0);
  EXPECT_EQ(ran(), "make use ");
  EXPECT_TRUE(fs::exists(folder / "run/config.yaml"));
}

TEST_F(CommandsTest, TheStoredConfigRunsToo) {
  call({"run", config, "--set", "seed=2"});
  const Outcome again = call({"run", (folder / "run/config.yaml").string()});
  EXPECT_EQ(again.err, "make: complete\nuse: complete\n");
}

TEST_F(CommandsTest, OptionsChooseFolderFormAndSilence) {
  const Outcome outcome =
      call({"run", "--run-dir", (folder / "other").string(), "--quiet", "--json", "--threads", "1", config});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  const nlohmann::json result = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(result.at("stages").at(1).at("name"), "use");
  EXPECT_EQ(result.at("stages").at(1).at("skipped"), false);
  EXPECT_TRUE(fs::exists(folder / "other/used"));
  EXPECT_FALSE(fs::exists(folder / "run"));
}

TEST_F(CommandsTest, ExitCodesTellTheKindOfFailure) {
  const Outcome infeasible = call({"run", config, "--set", "seed=13"});
  EXPECT_EQ(infeasible.code, 3);
  EXPECT_THAT(infeasible.err, HasSubstr("\ntangram: infeasible: no student keeps memory 1 GiB\n"));
  EXPECT_EQ(call({"run", config, "--set", "sed=1"}).code, 2);
  EXPECT_EQ(call({"run", (folder / "none.yaml").string()}).code, 2);
  fs::remove(folder / "run/made");
  fs::create_directories(folder / "run/made");  // where make wants to write a file
  EXPECT_EQ(call({"make", config, "--again"}).code, 1);
  EXPECT_EQ(call({}).code, 2);
}

TEST_F(CommandsTest, UsageIsExplained) {
  EXPECT_EQ(call({"weihg", "x"}).err, "tangram: no verb 'weihg'; did you mean 'weigh'? known: run, make, weigh, use\n");
  EXPECT_EQ(call({"weigh"}).err, "tangram: FOLDER is required; see tangram weigh --help\n");
  EXPECT_EQ(call({"run", config, "--sett", "a=1"}).code, 2);
  EXPECT_EQ(call({"run", config, "--device", "tpu"}).code, 2);
  EXPECT_THAT(call({"run", config, "--device", "cuda"}).err, HasSubstr("--device cuda: "));
  EXPECT_THAT(call({"--version"}).out, testing::StartsWith("tangram " TANGRAM_VERSION "\n"));
  const Outcome help = call({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_THAT(help.out, HasSubstr("Make it"));
  EXPECT_THAT(call({"make", "--help"}).out, HasSubstr("Example:\n  tangram make configs/quickstart.yaml"));
  EXPECT_THAT(call({"weigh", "--help"}).out, HasSubstr("Example:\n  tangram weigh models/llama"));
}

// Which of two verbs of one name is meant does not hang on what the disk has: a slip in the path is to be named.
TEST_F(CommandsTest, AMissingFolderOrConfigIsNamed) {
  EXPECT_EQ(call({"use", "none"}).out, "none used\n");
  EXPECT_EQ(call({"use", std::string(5000, 'x')}).code, 0);
  EXPECT_EQ(call({"use", "none.yaml"}).err, "tangram: none.yaml: cannot be read: No such file or directory\n");
  EXPECT_THAT(call({"use", "--help"}).out, HasSubstr("tangram use configs/quickstart.yaml"));
}

TEST_F(CommandsTest, ModelVerbsGetTheirFolder) {
  EXPECT_EQ(call({"weigh", "llama", "--threads", "3"}).out, "llama weighs 3\n");
  // `use` is a stage on a config and a verb on a folder.
  EXPECT_EQ(call({"use", (folder / "teacher").string()}).out, "teacher used\n");
  call({"make", config});
  EXPECT_THAT(call({"use", "--run-dir", (folder / "run").string(), config}).out, StartsWith("Results are in "));
}

}  // namespace
}  // namespace tangram
