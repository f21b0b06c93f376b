#include "nas/site.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "blocks/file.h"
#include "kernels/error.h"
#include "nas/program.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr const char* kWhole = R"(
partition: gpu
account: none
gpus: --gpus-per-node=h100:8
ranks_per_node: 8
cpus_per_rank: 12
time_limit: 4 h
launcher: srun --mpi=pmix
)";

class SiteTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder);
  }
  Site read(const std::string& text) {
    write_file_atomically(folder / "site.yaml", text);
    return read_site(folder / "site.yaml");
  }
  std::string refusal(const std::string& text) {
    try {
      read(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.failure, Failure::bad_input);
      return e.what();
    }
    return "accepted";
  }
  /// What bash has after it evaluated the site's lines, one word a line.
  std::string evaluated(const Site& site, const std::string& print) {
    const ProgramOutcome bash = run_program(
        {"bash", "-c", "module() { echo \"module $*\"; }; eval \"$1\"; " + print, "bash", site_shell(site)});
    EXPECT_EQ(bash.code, 0) << bash.err;
    return bash.out;
  }

  const fs::path folder = fs::path(testing::TempDir()) /
                          fmt::format("site_{}", testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(SiteTest, GivesSbatchWhatItAsksFor) {
  const Site site = read(kWhole + std::string("qos: high\nmemory: 900 GiB\n"));
  EXPECT_THAT(sbatch_options(site, 16),
              testing::ElementsAre("--partition=gpu", "--qos=high", "--gpus-per-node=h100:8", "--nodes=2",
                                   "--ntasks-per-node=8", "--cpus-per-task=12", "--mem=921600M", "--time=240"));
  EXPECT_THAT(sbatch_options(site, 1), testing::Contains("--ntasks-per-node=1"));
  EXPECT_THAT(sbatch_options(site, 9), testing::AllOf(testing::Contains("--nodes=2"), testing::Contains("--ntasks=9")));
}

TEST_F(SiteTest, AsksForAllMissingKeysByName) {
  const std::string message = refusal("partition: gpu\naccount:\nlauncher: mpirun\n");
  for (const char* key : {"account (", "gpus (", "ranks_per_node (", "cpus_per_rank (", "time_limit ("})
    EXPECT_THAT(message, HasSubstr(key));
  EXPECT_THAT(message, testing::Not(HasSubstr("partition (")));
  // The one that is shipped is to be filled in.
  EXPECT_THROW(read_site(fs::path(TANGRAM_SOURCE_DIR) / "configs/site.yaml"), Error);
}

TEST_F(SiteTest, RefusesWhatNobodyMeans) {
  const auto with = [](const std::string& line) { return kWhole + line + "\n"; };
  EXPECT_THAT(refusal(with("partitoin: x")), HasSubstr("did you mean 'partition'?"));
  EXPECT_THAT(refusal("launcher: srun --mpi=pmx\n"), HasSubstr("did you mean 'srun --mpi=pmix'?"));
  EXPECT_THAT(refusal(with("qos: \"a\\nb\"")), HasSubstr("qos: a control character"));
  EXPECT_THAT(refusal(with("setup: [\"a\\tb\"]")), HasSubstr("setup: a control character"));
  EXPECT_THAT(refusal(with("modules: [\"a b\"]")), HasSubstr("modules: found 'a b'; allowed: one word"));
  EXPECT_THAT(refusal(with("qos: --wrap=x")), HasSubstr("qos: found '--wrap=x'"));
  EXPECT_THAT(refusal(with("container: {kind: pyxis}")), HasSubstr("container.image is missing"));
  EXPECT_THAT(refusal(with("container: {kind: apptainer, image: a.sif, mounts: [data]}")), HasSubstr("found 'data'"));
  std::string text = kWhole;
  text.replace(text.find("h100:8"), 6, "h100:4");
  EXPECT_THAT(refusal(text), HasSubstr("ranks_per_node: found 8, and gpus asks for 4"));
  text.replace(text.find("--gpus-per-node=h100:4"), 22, "--gpus 4");
  EXPECT_THAT(refusal(text), HasSubstr("gpus: found '--gpus 4'"));
}

TEST_F(SiteTest, TheShellGetsEveryValueAsItIs) {
  const std::string evil = "a'b\"c$(touch pwned)`x` \\ *";
  Site site = read(kWhole);
  site.scratch = evil;
  site.container = {ContainerKind::pyxis, evil, {"/data", "/a b:/c"}};
  site.modules = {"cuda/13.0"};
  site.setup = {"export WORD=$((6 * 7))"};
  site.network_interface = "ib0";
  EXPECT_EQ(
      evaluated(site, R"(printf '%s\n' "$TMPDIR" "$WORD" "$NCCL_SOCKET_IFNAME" "${launcher[@]}" "${#inside[@]}")"),
      "module load cuda/13.0\n" + evil + "\n42\nib0\nsrun\n--mpi=pmix\n--wait=10\n--cpus-per-task=12\n" +
          "--container-image=" + evil + "\n--container-mounts=/data,/a b:/c\n0\n");
  site.container.kind = ContainerKind::apptainer;
  site.launcher = Launcher::mpirun;
  EXPECT_EQ(evaluated(site, R"(printf '%s\n' "${launcher[@]}" "${inside[@]}")"),
            "module load cuda/13.0\nmpirun\n--bind-to\nnone\napptainer\nexec\n--nv\n--bind=/data\n--bind=/a b:/c\n" +
                evil + "\n");
}

TEST_F(SiteTest, IsLookedForInFourPlaces) {
  const fs::path config = folder / "my.yaml";
  fs::remove(folder / "site.yaml");
  unsetenv("TANGRAM_SITE");
  const std::string home = getenv("HOME");
  setenv("HOME", folder.c_str(), 1);
  try {
    site_file("", config);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr((folder / ".config/tangram/site.yaml").string()));
    EXPECT_THAT(e.what(), HasSubstr("copy configs/site.yaml"));
  }
  fs::create_directories(folder / ".config/tangram");
  write_file_atomically(folder / ".config/tangram/site.yaml", "");
  EXPECT_EQ(site_file("", config), folder / ".config/tangram/site.yaml");
  write_file_atomically(folder / "site.yaml", "");
  EXPECT_EQ(site_file("", config), folder / "site.yaml");
  setenv("TANGRAM_SITE", "/named.yaml", 1);
  EXPECT_EQ(site_file("", config), "/named.yaml");
  EXPECT_EQ(site_file("/asked.yaml", config), "/asked.yaml");
  unsetenv("TANGRAM_SITE");
  setenv("HOME", home.c_str(), 1);
}

TEST(Program, GivesExitCodeAndOutput) {
  const ProgramOutcome whole = run_program({"sh", "-c", "echo out; echo err >&2; exit 3"});
  EXPECT_EQ(whole.code, 3);
  EXPECT_EQ(whole.out, "out\n");
  EXPECT_EQ(whole.err, "err\n");
  EXPECT_EQ(run_program({"no-such-program-here"}).code, 127);
  EXPECT_EQ(run_program({"sleep", "60"}, 0.05).code, 128 + 9);
}

TEST(Program, QuotedWordsAreReadBackByAShell) {
  const std::vector<std::string> words = {"plain-1.2/x:y=z", "", "a b", "it's", "$HOME `ls` \"q\" \\", "-n", "*", "~",
                                          "new\nline"};
  const ProgramOutcome shell = run_program({"sh", "-c", "printf '%s|' " + shell_quoted(words)});
  EXPECT_EQ(shell.out, "plain-1.2/x:y=z||a b|it's|$HOME `ls` \"q\" \\|-n|*|~|new\nline|");
}

}  // namespace
}  // namespace tangram
