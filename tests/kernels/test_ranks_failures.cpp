#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "tests/kernels/test_ranks.h"

// What a user sees when a rank hangs, dies, or does something else than the others. Each test starts this program
// again, under mpirun, with `--misbehave HOW`.

namespace tangram {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using namespace std::chrono_literals;

struct Job {
  int exit_code;
  double seconds;
  std::string output;
};

Job run_job(const std::string& before, const std::string& how) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  const std::string command = fmt::format("{} '{}' --misbehave {} 2>&1", before, self, how);
  const auto start = std::chrono::steady_clock::now();
  Job job;
  FILE* pipe = popen(command.c_str(), "r");
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) job.output.append(buffer, n);
  const int status = pclose(pipe);
  job.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  job.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return job;
}

class Failures : public testing::Test {
 protected:
  void SetUp() override {
    if (world().size() > 1) GTEST_SKIP() << "one rank starts the others";
    if (!TANGRAM_HAS_MPI) GTEST_SKIP() << "built without MPI";
  }
  /// Of three ranks of which rank 1 misbehaves, with a timeout of 2 s.
  static Job misbehaving(const std::string& how) { return run_job("TANGRAM_COMM_TIMEOUT=2 mpirun -n 3", how); }
  static constexpr double kSoon = 15;  // seconds for the start, the timeout, and mpirun's own patience
};

TEST_F(Failures, ARankThatHangsIsNamedAndEndsTheJob) {
  const Job job = misbehaving("hang");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  // Of ranks 0 and 2 one is first, and ends the other.
  EXPECT_THAT(job.output,
              AllOf(HasSubstr("of 3: sum of 4096 bytes during 'distill step 17': nothing has moved for 2 s; "
                              "waiting for rank"),
                    HasSubstr("which has died, hangs, or is slower than the timeout")));
}

TEST_F(Failures, AMessageThatDoesNotComeIsNamed) {
  const Job job = misbehaving("silent");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  EXPECT_THAT(job.output, HasSubstr("tangram: rank 0 of 3: 8 bytes from rank 1, tag 9 during 'distill step "
                                    "17': nothing has moved for 2 s; waiting for rank 1"));
}

TEST_F(Failures, ARankThatIsKilledEndsTheJob) {
  const Job job = misbehaving("die");
  EXPECT_EQ(job.exit_code, 128 + SIGKILL) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  EXPECT_THAT(job.output, AllOf(HasSubstr("rank 1"), HasSubstr("signal 9")));
}

TEST_F(Failures, AbortEndsTheJobWithItsMessageAndCode) {
  const Job job = misbehaving("abort");
  EXPECT_EQ(job.exit_code, 3) << job.output;
  EXPECT_LT(job.seconds, kSoon);
  EXPECT_THAT(job.output,
              AllOf(HasSubstr("tangram: rank 1 of 3: the disk is full"), Not(HasSubstr("nothing has moved"))));
}

TEST_F(Failures, AnErrorThatDestroysTheCommunicatorEndsTheJob) {
  for (const char* how : {"throw", "throw_with_pending"}) {
    const Job job = misbehaving(how);
    EXPECT_EQ(job.exit_code, 2) << job.output;
    EXPECT_LT(job.seconds, kSoon);
    EXPECT_THAT(job.output, AllOf(HasSubstr("no such file"), Not(HasSubstr("nothing has moved"))));
  }
}

TEST_F(Failures, SizesThatDisagreeAreNamed) {
  for (const char* how : {"too_much", "too_little"}) {
    const Job job = misbehaving(how);
    EXPECT_EQ(job.exit_code, 1) << job.output;
    EXPECT_LT(job.seconds, kSoon);
    EXPECT_THAT(job.output, HasSubstr("rank 0 of 3: 16 bytes from rank 1, tag 0"));
  }
  EXPECT_THAT(misbehaving("too_little").output, HasSubstr("8 bytes came from rank 1 where 16 must come"));
}

TEST_F(Failures, EverythingThrowsAfterTheFirstFailure) {
  const Job job = misbehaving("go_on");
  EXPECT_EQ(job.exit_code, 7) << job.output;
}

TEST_F(Failures, WithoutAModuleTheErrorSaysWhatToDo) {
  const Job job = run_job("TANGRAM_MPI_MODULE=/nowhere/module.so mpirun -n 2", "hang");
  EXPECT_EQ(job.exit_code, 1) << job.output;
  EXPECT_THAT(job.output, AllOf(HasSubstr("/nowhere/module.so"), HasSubstr("openmpi-bin")));
}

TEST_F(Failures, SrunWithoutMpiIsRefused) {
  const Job job = run_job("SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=4", "hang");
  EXPECT_EQ(job.exit_code, 2) << job.output;
  EXPECT_THAT(job.output, AllOf(HasSubstr("srun has started 4 tasks"), HasSubstr("--mpi=pmix")));
}

}  // namespace

int misbehave(const std::string& how) {
  Communicator& ranks = world();
  const bool odd = ranks.rank() == 1;
  std::vector<float> x(1024);
  int64_t two[2] = {};
  try {
    ranks.barrier();
    ranks.set_label("distill step 17");
    if (how == "silent") {
      if (ranks.rank() == 0) ranks.receive(view_of(two, 1, 1), 1, 9).wait();
      std::this_thread::sleep_for(60s);
    }
    if (how == "too_much" || how == "too_little") {
      if (ranks.rank() == 0) ranks.receive(view_of(two, 1, 2), 1, 0).wait();
      const int64_t sent = how == "too_much" ? 3 : 1;
      std::vector<int64_t> words(3);
      if (odd) ranks.send(view_of(words.data(), 1, sent), 0, 0).wait();
      std::this_thread::sleep_for(60s);
    }
    if (odd && how == "hang") raise(SIGSTOP);
    if (odd && how == "die") raise(SIGKILL);
    if (odd && how == "abort") ranks.abort("the disk is full", 3);
    if (odd && how.starts_with("throw")) {
      Communicator own = std::move(ranks);
      const Pending never = how == "throw" ? Pending() : own.receive(view_of(two, 1, 1), 0, 1);
      throw bad_input("no such file");
    }
    if (odd && how == "go_on") {
      try {
        Pending never = ranks.receive(view_of(two, 1, 1), 0, 1);
        throw Error("first");
      } catch (const Error&) {
      }
      try {
        ranks.barrier();
      } catch (const Error& e) {
        return std::string(e.what()).find("given up because of an error") != std::string::npos ? 7 : 8;
      }
    }
    for (int step = 0; step < 5; ++step) ranks.sum(view_of(x.data(), 1, 1024));
  } catch (const Error& e) {
    if (odd && how.starts_with("throw")) throw;
    ranks.abort(e.what(), int(e.failure));
  }
  return 0;
}

}  // namespace tangram
