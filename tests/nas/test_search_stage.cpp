// The search stage as a whole process, and what evaluate and report make of its students.

#include <gmock/gmock.h>

#include "blocks/file.h"
#include "nas/architecture_file.h"
#include "nas/evaluation_file.h"
#include "nas/model_verbs.h"
#include "nas/stages.h"
#include "nas/taken_limits.h"
#include "puzzle/score_table.h"
#include "tests/nas/command_line.h"
#include "tests/nas/search_process.h"

namespace tangram {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

struct SearchStage : testing::Test {
  static Search& search() {
    static Search* one = [] {
      auto* made = new Search;
      const std::string printed = made->run("run");
      EXPECT_TRUE(made->succeeded()) << printed;
      return made;
    }();
    return *one;
  }
  static void TearDownTestSuite() { fs::remove_all(search().path("")); }
};

TEST_F(SearchStage, KeepsAFrontierWhereAskedFor) {
  const std::vector<std::string> asked = {"search", "--set", "solutions.frontier=memory", "--set",
                                          "solutions.points=7"};
  const fs::path file = search().path("run/frontiers/student.json");
  EXPECT_FALSE(fs::exists(file));
  const std::string printed = search().call(asked, "run");
  ASSERT_TRUE(search().succeeded()) << printed;
  EXPECT_THAT(printed, HasSubstr("search student: frontier of 7 points, all proven, in frontiers/student.json"));
  const std::string frontier = read_text_file(file, 1 << 20);

  // The same as the verb's, of the same scores, and by the same rules; the target's limit on memory is what moves.
  const Outcome verb = call_with({"search", search().path("run/scores.h5"), "--frontier", "memory", "--points", "7",
                                  "--forbid", "0:attention=no_op", "--json"},
                                 all_stages(), all_model_verbs());
  EXPECT_EQ(verb.code, 0) << verb.err;
  EXPECT_EQ(frontier, verb.out);

  // It is one of the stage's files: complete while it is there, made again, the same, where it is gone.
  EXPECT_THAT(search().call(asked, "run"), HasSubstr("search: complete"));
  fs::remove(file);
  EXPECT_THAT(search().call(asked, "run"), HasSubstr("student.json is gone"));
  EXPECT_EQ(read_text_file(file, 1 << 20), frontier);
  search().call({"search"}, "run");
  EXPECT_FALSE(fs::exists(file)) << "not asked for any more";
}

TEST_F(SearchStage, ReportsWhatWasAskedBesideTheAnswer) {
  const std::string printed = search().call({"run", "--set", "constraints.most_variants=6", "--set",
                                             "solutions.frontier=memory", "--set", "scenarios.s.concurrency=[1, 2]"},
                                            "asked");
  ASSERT_TRUE(search().succeeded()) << printed;
  const std::string report = read_text_file(search().path("asked/report.txt"), 1 << 20);
  const ChosenArchitecture student = read_architecture(search().path("asked/architectures/student.yaml"));
  ASSERT_EQ(student.scenarios.size(), 1u);
  const std::string batch = student.scenarios[0].substr(2);
  EXPECT_THAT(report,
              ContainsRegex("memory \\(s@" + batch +
                            "\\) +at most [0-9.]+ [KM]iB \\(70 % of the teacher's\\) +[0-9.]+ [KM]iB +6[0-9.]+ %"));
  EXPECT_THAT(report, HasSubstr("  forbid 0:attention=no_op\n  at most 6 different variants: it has "));
  EXPECT_THAT(report, HasSubstr("  batch size of s: " + batch + ", of 1, 2\n"));
  EXPECT_THAT(report, HasSubstr("  frontier over memory of 100 points: frontiers/student.json\n"));
}

TEST_F(SearchStage, KeepsTheNearestStudentOfLimitsThatCannotBeMet) {
  search().run("run");
  const std::string printed = search().call({"search", "--set", "constraints.memory=1%"}, "run");
  EXPECT_EQ(search().exit_code(), 3);
  EXPECT_THAT(printed, HasSubstr("no student keeps the limits of 'student' and its rules:\nthis cannot be kept:\n"
                                 "  memory (s): at most "));
  EXPECT_THAT(printed, HasSubstr("is in architectures/student-nearest.yaml"));
  const ChosenArchitecture nearest = read_architecture(search().path("run/architectures/student-nearest.yaml"));
  EXPECT_EQ(nearest.method, "nearest");
  EXPECT_EQ(nearest.target, "student");
  EXPECT_THAT(search().call({"uptrain", "--set", "constraints.memory=1%"}, "run"), HasSubstr("search is to run first"));
  // Rules that exclude each other are an answer, too.
  const std::string rules =
      search().call({"search", "--set", "constraints.require=[{layers: 0, attention: no_op}]"}, "run");
  EXPECT_EQ(search().exit_code(), 3) << rules;
  EXPECT_THAT(rules, HasSubstr("these exclude each other:\n  require 0:attention=no_op\n  forbid 0:attention=no_op\n"));
  // One that names what is not in the search space is no search at all, and refused before any work.
  const std::string unknown = search().call({"run", "--set", "constraints.require=[{attention: gqa_7}]"}, "fresh");
  EXPECT_EQ(search().exit_code(), 2);
  EXPECT_THAT(unknown, HasSubstr("constraints.require.0.attention: no attention in the search space 'gqa_7'"));
  EXPECT_FALSE(fs::exists(search().path("fresh/stages")));
  search().run("run");
  EXPECT_FALSE(fs::exists(search().path("run/architectures/student-nearest.yaml")));
}

TEST_F(SearchStage, ReportsMemoryThatWasTaken) {
  search().run("run");  // whatever other tests left of it
  ASSERT_TRUE(search().succeeded());
  const std::vector<MeasuredRuntime> runtimes = read_runtimes(search().path("run/runtime.json"));
  ASSERT_FALSE(runtimes.empty());
  EXPECT_EQ(runtimes[0].name, "teacher");
  for (const MeasuredRuntime& r : runtimes) {
    if (r.name == "teacher") continue;
    ASSERT_EQ(r.limits.size(), 1u) << r.name;
    EXPECT_EQ(r.limits[0].quantity, "memory");
    EXPECT_EQ(r.limits[0].limit, 0.7 * runtimes[0].memory_bytes());
    EXPECT_EQ(r.limits[0].taken, r.memory_bytes());
    EXPECT_EQ(r.limits[0].missed, r.memory_bytes() > r.limits[0].limit);
    const ChosenArchitecture student = read_architecture(search().path("run/architectures/" + r.name + ".yaml"));
    const double parameters = student.predicted.at("parameters");
    EXPECT_GE(r.weight_bytes, 4 * parameters);  // f32; every tensor begins at a multiple of 64
    EXPECT_LT(r.weight_bytes, 4 * parameters + 64.0 * double(20 * student.blocks.size() + 3));
    EXPECT_EQ(r.kv_cache_bytes, student.predicted.at("s.kv_cache"));
    // Laid out as the engine does; what is missing are gaps between tensors and what oneDNN packs for a product.
    EXPECT_LE(student.predicted.at("s.memory"), r.memory_bytes());
    EXPECT_GT(student.predicted.at("s.memory"), 0.9 * r.memory_bytes());
  }
  const std::string report = read_text_file(search().path("run/report.txt"), 1 << 20);
  EXPECT_THAT(report, ContainsRegex("student +s +memory +[0-9.]+ [KM]iB +[0-9.]+ [KM]iB +[+-][0-9.]+ %"));
  EXPECT_THAT(report, ContainsRegex("teacher, s: [0-9.]+ [KM]iB memory, [0-9.]+ [mu]?s to the first token"));
  EXPECT_THAT(report, HasSubstr("student, s: " + limit_text([&] {
                                  for (const MeasuredRuntime& r : runtimes)
                                    if (r.name == "student") return r.limits.at(0);
                                  return TakenLimit{};
                                }())));
}

TEST_F(SearchStage, SaysWhichTimingsMayBeTooLong) {
  ScoreTable table = read_scores(search().path("run/scores.h5"));
  EXPECT_GT(table.sources[0].timings, 3);
  table.sources[0].disturbed_timings = 3;
  write_scores(table, search().path("run/scores.h5"));
  const std::string printed = search().call({"report", "--again"}, "run");
  EXPECT_THAT(
      read_text_file(search().path("run/report.txt"), 1 << 20),
      HasSubstr(fmt::format("scenario s: 3 of {} timings were taken while other work kept the machine busy, and "
                            "may be too long; on a quiet one: tangram measure CONFIG.yaml --again",
                            table.sources[0].timings)))
      << printed;
  const std::vector<std::string> verbs[] = {{"inspect", search().path("run/scores.h5")},
                                            {"search", search().path("run/scores.h5"), "--limit", "memory=90%"}};
  for (const std::vector<std::string>& verb : verbs)
    EXPECT_THAT(call_with(verb, all_stages(), all_model_verbs()).out,
                HasSubstr(fmt::format("scenario s: 3 of {} timings were taken", table.sources[0].timings)));
}

}  // namespace
}  // namespace tangram
