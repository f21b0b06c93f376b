#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "kernels/error.h"
#include "nas/digest.h"
#include "nas/run_directory.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

std::string content_of(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class RunDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(root);
    fs::create_directories(root.parent_path());
  }
  void write(const std::string& name, const std::string& content) {
    fs::create_directories((root / name).parent_path());
    std::ofstream(root / name) << content;
  }
  std::string message_of(auto f) {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  const fs::path root = fs::path(testing::TempDir()) /
                        fmt::format("run_{}", testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(RunDirectoryTest, AStageIsCompleteForItsInputsOnly) {
  {
    RunDirectory run(root, "teacher");
    EXPECT_EQ(run.reason_to_run("score", "i1"), "not run yet");
    const fs::path work = run.begin("score", "i1");
    EXPECT_EQ(run.reason_to_run("score", "i1"), "not complete yet");
    write("scores.h5", "scores");
    run.complete("score", "i1", std::vector{root / "scores.h5"});
    EXPECT_FALSE(fs::exists(work));
  }
  RunDirectory run(root, "teacher");
  EXPECT_EQ(run.reason_to_run("score", "i1"), "");
  EXPECT_EQ(run.reason_to_run("score", "i2"), "its settings or inputs have changed");
  EXPECT_EQ(run.reason_to_run("search", "i1"), "not run yet");
  const std::string digest = run.output_digest("score");
  write("scores.h5", "other scores");
  EXPECT_EQ(run.output_digest("score"), digest);  // of what the stage wrote, not of what stands there now
  run.complete("score", "i1", std::vector{root / "scores.h5"});
  EXPECT_NE(run.output_digest("score"), digest);
  fs::remove(root / "scores.h5");
  EXPECT_EQ(run.reason_to_run("score", "i1"), (root / "scores.h5").string() + " is gone");
  EXPECT_THAT(message_of([&] { run.output_digest("search"); }), HasSubstr("stage search is not complete"));
}

TEST_F(RunDirectoryTest, ADamagedRecordIsNamedAndRunsAgain) {
  RunDirectory run(root, "teacher");
  run.begin("score", "i1");
  run.complete("score", "i1", {});
  for (const char* damaged : {"", "{", "[]", "{\"inputs\": 3}", "{\"inputs\": \"i1\", \"output\": \"x\"}"}) {
    write("stages/score.json", damaged);
    EXPECT_EQ(run.reason_to_run("score", "i1"), (root / "stages/score.json").string() + " is damaged") << damaged;
  }
}

TEST_F(RunDirectoryTest, CheckpointsOutliveAKillButNotAChangeOfInputs) {
  const auto attempt = [&](const std::string& inputs) {
    RunDirectory run(root, "teacher");
    const fs::path work = run.begin("distill", inputs);
    const bool found = fs::exists(work / "step.safetensors");
    std::ofstream(work / "step.safetensors") << "state";
    return found;
  };
  EXPECT_FALSE(attempt("i1"));
  EXPECT_TRUE(attempt("i1"));
  EXPECT_FALSE(attempt("i2"));
  write("work/distill/inputs.json", "damaged");
  EXPECT_FALSE(attempt("i2"));
}

TEST_F(RunDirectoryTest, AKillAfterTheRecordLeavesNoWorkFolder) {
  {
    RunDirectory run(root, "teacher");
    run.begin("score", "i1"), run.begin("search", "i1");
    run.complete("score", "i1", {});
  }
  write("work/score/checkpoint/step-1/part-0.safetensors", "state");
  RunDirectory run(root, "teacher");
  EXPECT_EQ(run.reason_to_run("score", "i1"), "");
  EXPECT_FALSE(fs::exists(root / "work/score"));
  EXPECT_TRUE(fs::exists(root / "work/search"));
}

TEST_F(RunDirectoryTest, BeginTakesTheRecordAway) {
  RunDirectory run(root, "teacher");
  run.complete("score", "i1", {});
  run.begin("score", "i1");
  EXPECT_EQ(run.reason_to_run("score", "i1"), "not complete yet");
}

TEST_F(RunDirectoryTest, OneProcessHoldsIt) {
  RunDirectory run(root, "teacher");
  // flock tells open files apart, so a second RunDirectory of this process stands for another process.
  EXPECT_EQ(message_of([&] { RunDirectory second(root, "teacher"); }),
            fmt::format("{}: process {} is at work on this run directory", root.string(), getpid()));
}

TEST_F(RunDirectoryTest, AKilledProcessLeavesItFree) {
  const pid_t child = fork();
  if (child == 0) {
    RunDirectory run(root, "teacher");
    raise(SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(message_of([&] { RunDirectory run(root, "teacher"); }), "no error");
}

TEST_F(RunDirectoryTest, BelongsToTheTeacherOfItsResultsAndToOneFolder) {
  const auto opened_for = [&](const char* teacher) { return message_of([&] { RunDirectory run(root, teacher); }); };
  const std::string refusal =
      root.string() + ": this run directory belongs to another teacher; give another --run-dir, or delete it";
  { RunDirectory(root, "damaged").begin("prepare", "i1"); }
  EXPECT_EQ(opened_for("mended"), "no error");
  write("work/prepare/checkpoint.safetensors", "state");
  EXPECT_EQ(opened_for("mended"), "no error");
  EXPECT_EQ(opened_for("damaged"), refusal);
  { RunDirectory(root, "mended").complete("prepare", "i1", {}); }
  EXPECT_EQ(opened_for("mended"), "no error");
  EXPECT_EQ(opened_for("damaged"), refusal);

  fs::remove_all(root);
  write("thesis.tmp", "precious");
  write("thesis.tex", "precious");
  EXPECT_THAT(message_of([&] { RunDirectory run(root, "teacher"); }), HasSubstr("not empty and no run directory"));
  EXPECT_EQ(content_of(root / "thesis.tmp"), "precious");
}

TEST_F(RunDirectoryTest, HalfWrittenFilesGo) {
  { RunDirectory run(root, "teacher"); }
  write("library/0-1/ffn-linear.safetensors.tmp", "half");
  write("stages/score.json.tmp", "{");
  write("library/0-1/ffn-linear.safetensors", "whole");
  RunDirectory run(root, "teacher");
  EXPECT_FALSE(fs::exists(root / "library/0-1/ffn-linear.safetensors.tmp"));
  EXPECT_FALSE(fs::exists(root / "stages/score.json.tmp"));
  EXPECT_EQ(content_of(root / "library/0-1/ffn-linear.safetensors"), "whole");
}

TEST_F(RunDirectoryTest, FingerprintsTellContentsAndNames) {
  write("a", "x");
  write("b", "x");
  EXPECT_EQ(fingerprint(root / "a"), fingerprint(root / "b"));
  const std::string folder = fingerprint(root);
  fs::rename(root / "b", root / "c");
  EXPECT_NE(fingerprint(root), folder);
  EXPECT_THAT(message_of([&] { fingerprint(root / "none"); }), HasSubstr("none: no such file or folder"));
  Digest digest;
  digest.add("foobar");
  EXPECT_EQ(digest.text(), "85944171f73967e8");  // test vector of the algorithm's authors

  // Of a large file the ends are read.
  std::string large(size_t{20} << 20, 'x');
  write("large", large);
  const std::string before = fingerprint(root / "large");
  large.back() = 'y';
  write("large", large);
  EXPECT_NE(fingerprint(root / "large"), before);
}

}  // namespace
}  // namespace tangram
