// `tangram submit` and `tangram status` against programs that stand in Slurm's place; tests/slurm has the real ones.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "nas/distill_grid.h"
#include "nas/job_chain.h"
#include "nas/plan.h"
#include "nas/program.h"
#include "tests/nas/command_line.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class SubmitTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::remove_all(folder);
    fs::create_directories(folder / "teacher");
    fs::create_directories(folder / "bin");
    const Model teacher = make_model(small_config(), teacher_architecture(small_config()), DType::f32);
    fill_random(teacher, 3);
    save_model(folder / "teacher", teacher);
    write_file_atomically(folder / "text", "text");
    write_file_atomically(folder / "c.yaml",
                          "teacher: teacher\ndata: {train: [text], validation: [text]}\nrun_dir: run\n"
                          "search_space: {attention: [linear], ffn: [0.5]}\ndistill: {micro_batches: 4, shards: 4}\n");
    write_file_atomically(folder / "site.yaml",
                          "partition: main\naccount: none\ngpus: none\nranks_per_node: 2\ncpus_per_rank: 1\n"
                          "time_limit: 10 min\nlauncher: srun --mpi=pmix\n");
    // sbatch gives every job the next number and keeps its arguments.
    stand_in("sbatch",
             "echo \"$*\" >>" + quoted("sbatch.log") + "; echo $((100 + $(wc -l <" + quoted("sbatch.log") + ")))");
    stand_in("scontrol", "echo 'Slurmctld(primary) at here is UP'");
    stand_in("squeue", "cat " + quoted("queue") + " 2>/dev/null; true");
    stand_in("scancel", "echo \"$*\" >>" + quoted("scancel.log"));
    setenv("PATH", ((folder / "bin").string() + ":" + path).c_str(), 1);
    unsetenv("TANGRAM_SITE");
  }
  void TearDown() override {
    setenv("PATH", path.c_str(), 1);
    unsetenv("TANGRAM_SITE");
    unsetenv("TANGRAM_HOME");
  }

  std::string quoted(const std::string& name) const { return shell_quoted((folder / name).string()); }
  void stand_in(const std::string& name, const std::string& line) {
    write_file_atomically(folder / "bin" / name, "#!/bin/sh\n" + line + "\n");
    chmod((folder / "bin" / name).c_str(), 0755);
  }
  Outcome call(std::vector<std::string> arguments) { return call_with(arguments, all_stages(), all_model_verbs()); }
  std::vector<std::string> lines_of(const std::string& name) const {
    std::vector<std::string> lines;
    std::ifstream file(folder / name);
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }

  const std::string path = getenv("PATH");
  const fs::path folder = fs::path(testing::TempDir()) /
                          fmt::format("submit_{}", testing::UnitTest::GetInstance()->current_test_info()->name());
  const std::string config = folder / "c.yaml", run = folder / "run";
};

TEST_F(SubmitTest, ChainsEveryJobToTheOneBefore) {
  const Outcome outcome = call({"submit", config, "--nodes", "3", "--set", "seed=7"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const std::vector<std::string> calls = lines_of("sbatch.log");
  const char* names[] = {"prepare", "distill", "score", "search", "uptrain", "export"};
  ASSERT_EQ(calls.size(), std::size(names));
  for (size_t i = 0; i < calls.size(); ++i) {
    EXPECT_THAT(calls[i], HasSubstr(fmt::format("jobs/{}.sbatch {} --run-dir {} --set seed=7", names[i], config, run)));
    EXPECT_THAT(calls[i], HasSubstr("--kill-on-invalid-dep=yes"));
    if (i == 0) continue;
    EXPECT_THAT(calls[i], HasSubstr(fmt::format("--dependency=afterok:{} ", 100 + i)));
  }
  EXPECT_THAT(calls[0], testing::Not(HasSubstr("--dependency")));
  EXPECT_THAT(calls[1], HasSubstr("--nodes=3 --ntasks-per-node=2"));
  EXPECT_THAT(calls[3], HasSubstr("--nodes=1 --ntasks-per-node=1"));  // a stage for one process
  const std::vector<ChainJob> jobs = read_jobs(run);
  ASSERT_EQ(jobs.size(), 6u);
  EXPECT_EQ(jobs[1].id, "102");
  EXPECT_EQ(jobs[1].ranks, 6);
  EXPECT_EQ(jobs[5].stages, (std::vector<std::string>{"evaluate", "export", "report"}));
  EXPECT_THAT(outcome.out, HasSubstr("uptrain  105"));
}

// 3 layers: 6 units of work to distill in 4 shards, an FFN and attention each; 4 pieces to score; 3 blocks to uptrain.
TEST_F(SubmitTest, AsksForNoMoreProcessesThanPlansHaveWorkFor) {
  write_file_atomically(folder / "site.yaml",
                        "partition: main\naccount: none\ngpus: none\nnodes: 50\nranks_per_node: 2\ncpus_per_rank: 1\n"
                        "time_limit: 10 min\nlauncher: srun --mpi=pmix\n");
  ASSERT_EQ(call({"submit", config, "--set", "score.tokens=2048", "--set", "uptrain.shards=1"}).code, 0);
  std::vector<int64_t> ranks;
  for (const ChainJob& job : read_jobs(run)) ranks.push_back(job.ranks);
  EXPECT_EQ(ranks, (std::vector<int64_t>{1, 24, 4, 1, 3, 1}));
  EXPECT_THAT(lines_of("sbatch.log")[1], HasSubstr("--nodes=12 --ntasks-per-node=2"));
}

// Oracle: the step of every number of ranks.
TEST_F(SubmitTest, DistillAsksForTheFewestRanksOfTheShortestStep) {
  for (const int64_t shards : {1, 4}) {
    const SearchConfig c = read_search_config(config, std::vector{fmt::format("distill.shards={}", shards)});
    const ModelConfig teacher = teacher_shape(c);
    for (int64_t most = 1; most <= 26; ++most) {
      std::map<int64_t, double> steps;
      double shortest = 1e300;
      for (int64_t ranks = 1; ranks <= most; ++ranks) try {
          steps[ranks] = distill_grid(c, teacher, ranks, {}).slowest_flops(c.distill.training.micro_batches);
          shortest = std::min(shortest, steps[ranks]);
        } catch (const Error&) {
        }
      int64_t fewest = most;
      for (const auto& [ranks, step] : steps)
        if (step <= 1.01 * shortest) fewest = std::min(fewest, ranks);
      EXPECT_EQ(useful_ranks(c, teacher, most), fewest) << most << " " << shards;
    }
  }
}

TEST_F(SubmitTest, EveryStageIsInOneJobThatHasAScript) {
  std::vector<std::string> in_jobs, all;
  for (const ChainJob& job : job_chain()) {
    in_jobs.insert(in_jobs.end(), job.stages.begin(), job.stages.end());
    const std::string script = read_text_file(fs::path(TANGRAM_SOURCE_DIR) / "jobs" / (job.name + ".sbatch"), 1 << 16);
    EXPECT_THAT(script, HasSubstr(fmt::format("run_stages {} -- \"$@\"", fmt::join(job.stages, " "))));
    EXPECT_THAT(script, HasSubstr("#SBATCH --signal=B:USR1@"));
    EXPECT_THAT(script, HasSubstr("#SBATCH --requeue"));
    EXPECT_THAT(script, HasSubstr("#SBATCH --open-mode=append"));
  }
  for (const Stage& stage : all_stages()) all.emplace_back(stage.name);
  EXPECT_EQ(in_jobs, all);
}

TEST_F(SubmitTest, DryRunPrintsAScriptThatSubmitsTheSame) {
  const Outcome dry = call({"submit", config, "--ranks", "3", "--dry-run"});
  ASSERT_EQ(dry.code, 0) << dry.err;
  EXPECT_TRUE(lines_of("sbatch.log").empty());
  EXPECT_FALSE(fs::exists(run));
  ASSERT_EQ(run_program({"sh", "-ec", dry.out}).code, 0);
  const std::vector<std::string> by_shell = lines_of("sbatch.log");
  fs::remove(folder / "sbatch.log");
  fs::remove_all(run);
  ASSERT_EQ(call({"submit", config, "--ranks", "3"}).code, 0);
  EXPECT_EQ(lines_of("sbatch.log"), by_shell);
}

TEST_F(SubmitTest, ARefusedJobLeavesNoneInTheQueue) {
  stand_in("sbatch", "case \"$*\" in *uptrain*) echo 'error: Invalid qos' >&2; exit 1;; *) echo 55;; esac");
  const Outcome outcome = call({"submit", config});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("no job uptrain"));
  EXPECT_THAT(outcome.err, HasSubstr("Invalid qos"));
  EXPECT_EQ(lines_of("scancel.log").size(), 4u);
  EXPECT_FALSE(fs::exists(fs::path(run) / "jobs.json"));
}

TEST_F(SubmitTest, RefusesASecondChainInTheSameRun) {
  ASSERT_EQ(call({"submit", config}).code, 0);
  write_file_atomically(folder / "queue", "101 COMPLETED None\n102 RUNNING None\n103 PENDING Dependency\n");
  const Outcome second = call({"submit", config});
  EXPECT_EQ(second.code, 2);
  EXPECT_THAT(second.err, HasSubstr("scancel 102 103"));
  write_file_atomically(folder / "queue", "101 COMPLETED None\n102 CANCELLED None\n");
  EXPECT_EQ(call({"submit", config}).code, 0);
}

TEST_F(SubmitTest, RefusesMoreProcessesThanWork) {
  const Outcome outcome = call({"submit", config, "--ranks", "1000"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("1000"));
  EXPECT_TRUE(lines_of("sbatch.log").empty());
  // Depth first takes one process, whatever there is.
  const Outcome one = call({"submit", config, "--ranks", "1000", "--set", "distill.order=depth_first"});
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_EQ(read_jobs(run)[1].ranks, 1);
}

TEST_F(SubmitTest, WithoutSlurmSaysWhatToDo) {
  stand_in("scontrol", "echo 'Slurmctld(primary) at here is DOWN'; exit 1");
  Outcome outcome = call({"submit", config});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.err,
              testing::AllOf(HasSubstr("does not answer"), HasSubstr("is DOWN"), HasSubstr("tangram run")));
  stand_in("scontrol", "exit 127");
  outcome = call({"submit", config});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("scontrol is not on the PATH"));
  EXPECT_FALSE(fs::exists(run));
}

TEST_F(SubmitTest, StatusTellsFilesAndQueue) {
  ASSERT_EQ(call({"submit", config}).code, 0);
  write_file_atomically(folder / "queue", "101 COMPLETED None\n102 RUNNING None\n103 PENDING Dependency\n");
  const fs::path work = fs::path(run) / "work/distill";
  for (const char* step : {"step-4", "step-12"}) {
    fs::create_directories(work / "checkpoint" / step);
    if (std::string(step) == "step-4") write_file_atomically(work / "checkpoint" / step / "manifest.json", "{}");
  }
  write_file_atomically(work / "progress.json",
                        R"({"label": "distill 3 variants", "note": "mean loss 0.5", "step": 13, "steps": 20,
                            "tokens_per_second": 1000, "seconds_left": 7, "written_at": 0})");
  write_file_atomically(fs::path(run) / "stages/prepare.json",
                        R"({"stage": "prepare", "inputs": "", "output": "", "files": []})");
  const Outcome text = call({"status", run});
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_THAT(text.out, testing::ContainsRegex("prepare +complete +101 +COMPLETED"));
  EXPECT_THAT(text.out, HasSubstr("step 13 of 20, 1k tokens/s, 7 s left, mean loss 0.5"));
  EXPECT_THAT(text.out, testing::ContainsRegex("checkpoint of step 4 +102 +RUNNING"));  // 12 has no manifest
  EXPECT_THAT(text.out, testing::ContainsRegex("score +not run yet +103 +PENDING .Dependency."));
  EXPECT_THAT(text.out, testing::ContainsRegex("uptrain +not run yet +105 +ended"));

  stand_in("squeue", "echo 'cannot contact slurm controller' >&2; exit 1");
  const Outcome json = call({"status", run, "--json"});
  ASSERT_EQ(json.code, 0) << json.err;
  const auto stages = nlohmann::json::parse(json.out).at("stages");
  EXPECT_EQ(stages[0]["state"], "complete");
  EXPECT_EQ(stages[1]["progress"]["step"], 13);
  EXPECT_EQ(stages[1]["checkpoint_step"], 4);
  EXPECT_EQ(stages[1]["job"]["state"], "unknown");
}

TEST_F(SubmitTest, StatusOfSomethingElseIsRefused) {
  EXPECT_EQ(call({"status", folder}).code, 2);
  ASSERT_EQ(call({"submit", config}).code, 0);
  write_file_atomically(fs::path(run) / "jobs.json",
                        R"({"jobs": [{"name": "x", "stages": [], "ranks": 1, "id": "1;x"}]})");
  EXPECT_THAT(call({"status", run}).err, HasSubstr("'1;x' is no job's number"));
}

TEST_F(SubmitTest, DoctorOfOneProcessFindsNothingWrong) {
  unsetenv("SLURM_NTASKS");
  const Outcome outcome = call({"doctor", "--folder", folder, "--json", "--threads", "1"});
  ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  const auto found = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(found["ranks"].size(), 1u);
  EXPECT_TRUE(found["problems"].empty());
  EXPECT_GT(found["folder"]["free_bytes"], 0);
  const Outcome nowhere = call({"doctor", "--folder", folder / "absent"});
  EXPECT_EQ(nowhere.code, 1);
  EXPECT_THAT(nowhere.out, HasSubstr("What is wrong"));
}

}  // namespace
}  // namespace tangram
