#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "blocks/file.h"
#include "nas/architecture_file.h"
#include "nas/model_verbs.h"
#include "nas/stages.h"
#include "puzzle/score_table.h"
#include "tests/nas/score_folder.h"

namespace tangram {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

struct SearchVerb : ScoreFolder {
  void SetUp() override {
    std::string csv;
    for (int layer = 0; layer < 4; ++layer)
      csv += fmt::format(
          "{0},gqa_2,,1,0,100,0,1\n{0},no_op,,0,{1},0,0,0\n{0},,ffn_64,1,0,300,0,3\n{0},,ffn_32,0,{2},150,0,1.5\n",
          layer, layer == 2 ? "nan" : fmt::format("{}", layer + 1), layer == 3 ? 50 : 2);
    const Outcome imported = import(csv);
    ASSERT_EQ(imported.code, 0) << imported.err;
    EXPECT_THAT(imported.out, HasSubstr("16 replacements of 4 layers; missing: 1 scores, 0 costs"));
  }
};

TEST_F(SearchVerb, FindsStudentsFromAScoreTableAlone) {
  const Outcome found = call({"search", scores, "--limit", "memory=70%", "--solutions", "2", "--min-difference", "50%",
                              "--out", (folder.path / "students").string()});
  EXPECT_EQ(found.code, 0) << found.err;
  EXPECT_THAT(found.out, HasSubstr("left out: 1 replacements without a finite kl, 0 without a cost"));
  // 1600 bytes in all; 1120 remain. Dearest bytes first: the first attention, 1 for 100, then narrow FFNs, 2 for 150.
  EXPECT_THAT(found.out, HasSubstr("student 1 of 2: kl 7 as a sum of scores (teacher 0), proven best"));
  EXPECT_THAT(found.out, ContainsRegex("memory \\(chat\\) +1.03 KiB +65.6 % +1.09 KiB +0.1"));
  EXPECT_THAT(found.out, ContainsRegex("throughput \\(chat\\) +3.81 tokens/s +152.4 %"));
  const ChosenArchitecture student = read_architecture(folder.path / "students/student.yaml");
  EXPECT_EQ(student.blocks.size(), 4u);
  EXPECT_TRUE(student.proven);
  EXPECT_EQ(read_architecture(folder.path / "students/student-2.yaml").name, "student-2");
}

TEST_F(SearchVerb, PrintsJson) {
  const Outcome found = call({"search", scores, "--limit", "chat.throughput>=1.3x", "--forbid", "all:attention=no_op",
                              "--require", "1:ffn=ffn_64", "--resample", "3", "--json"});
  EXPECT_EQ(found.code, 0) << found.err;
  const json result = json::parse(found.out);
  EXPECT_EQ(result.at("proven"), true);
  EXPECT_EQ(result.at("left_out").at("without_score"), 1);
  EXPECT_EQ(result.at("resampled").at("samples"), 3);
  EXPECT_EQ(result.at("resampled").at("changed"), json({0, 0, 0, 0}));  // without standard errors nothing is drawn
  const json& student = result.at("students").at(0);
  EXPECT_EQ(student.at("blocks").at(1).at("ffn"), "ffn_64");
  for (const json& block : student.at("blocks")) EXPECT_EQ(block.at("attention"), "gqa_2");
  EXPECT_GE(student.at("predicted").at("chat.throughput").get<double>(), 3.25);
}

TEST_F(SearchVerb, SaysWhichLimitsCannotBeMet) {
  const Outcome none = call({"search", scores, "--limit", "memory=10%"});
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.err, HasSubstr("no student keeps the limits"));
  EXPECT_THAT(none.err, HasSubstr("memory (chat): at most 160 B (10 % of the teacher's)"));
}

TEST_F(SearchVerb, ShowsTheTighterOfTwoLimitsOnTheSame) {
  for (const bool tight_first : {true, false}) {
    const Outcome found = call({"search", scores, "--limit", tight_first ? "memory=70%" : "memory=90%", "--limit",
                                tight_first ? "memory=90%" : "memory=70%"});
    EXPECT_EQ(found.code, 0) << found.err;
    EXPECT_THAT(found.out, ContainsRegex("memory \\(chat\\) +1.03 KiB +65.6 % +1.09 KiB"));
  }
}

TEST_F(SearchVerb, TracesAFrontier) {
  const std::string students = (folder.path / "points").string();
  const Outcome found = call({"search", scores, "--frontier", "memory", "--points", "9", "--json", "--out", students});
  EXPECT_EQ(found.code, 0) << found.err;
  const json result = json::parse(found.out);
  EXPECT_EQ(result.at("limit"), "memory (chat)");
  EXPECT_EQ(result.at("proven"), true);
  // From four narrow FFNs, and the attention whose going has no score, to the teacher.
  EXPECT_EQ(result.at("smallest"), 700);
  EXPECT_EQ(result.at("largest"), 1600);
  ASSERT_EQ(result.at("points").size(), 9u);
  std::set<json> different;
  for (const json& point : result.at("points")) {
    EXPECT_LE(point.at("predicted").at("chat.memory"), point.at("limit"));
    EXPECT_EQ(point.at("scenarios"), json({"chat"}));
    different.insert(point.at("blocks"));
  }
  const std::vector<ChosenArchitecture> written = read_architectures(students);
  EXPECT_EQ(written.size(), different.size());
  EXPECT_EQ(written[0].name, "frontier-001");
  EXPECT_EQ(written[0].predicted.at("chat.memory"), 700);
  // As a table, without a column of batch sizes where there is one.
  const std::string table = call({"search", scores, "--frontier", "chat.throughput", "--points", "3"}).out;
  EXPECT_THAT(table, HasSubstr("limit on throughput (chat)"));
  EXPECT_THAT(table, Not(HasSubstr("batch")));
  const Outcome none = call({"search", scores, "--frontier", "throughput", "--limit", "memory=10%"});
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.err, HasSubstr("memory (chat): at most 160 B (10 % of the teacher's)"));
}

TEST_F(SearchVerb, SaysOfSupportedPointsOnlyWhereTheyWereAskedFor) {
  const json without =
      json::parse(call({"search", scores, "--frontier", "memory", "--points", "4", "--json"}).out).at("points");
  const json with =
      json::parse(call({"search", scores, "--frontier", "memory", "--points", "4", "--supported", "--json"}).out)
          .at("points");
  for (const json& point : without) EXPECT_EQ(point.at("supported"), nullptr);
  EXPECT_EQ(with.at(0).at("supported"), true);
  EXPECT_THAT(call({"search", scores, "--frontier", "memory", "--points", "4"}).out, Not(HasSubstr("supported")));
}

TEST_F(SearchVerb, EveryPointOfAFrontierTakesItsBestBatchSize) {
  // The cache of 8 sequences takes eight times that of one, and their tokens 2.5 times the time.
  for (const auto& [batch, cache, time] : {std::tuple("1", 10, 1.0), {"8", 80, 2.5}}) {
    std::string rows = "layer,attention,ffn,teacher,kl,weight_bytes,kv_cache_bytes,decode_seconds,prefill_seconds\n";
    for (int layer = 0; layer < 3; ++layer)
      rows += fmt::format(
          "{0},gqa_2,,1,0,20,{1},{2},0\n{0},no_op,,0,{3},0,0,0,0\n{0},,ffn_64,1,0,60,0,{4},0\n"
          "{0},,ffn_32,0,0.5,30,0,{2},0\n",
          layer, cache, time, layer + 1, 3 * time);
    write_file_atomically(folder.path / "batch.csv", rows);
    std::vector<std::string> import = {"import-scores", (folder.path / "batch.csv").string(),
                                       "--out",         (folder.path / ("batch" + std::string(batch) + ".h5")).string(),
                                       "--scenario",    fmt::format("chat@{}=8/10/{}", batch, batch)};
    ASSERT_EQ(call(import).code, 0);
  }
  ScoreTable both = read_scores(folder.path / "batch1.h5");
  copy_costs(both, read_scores(folder.path / "batch8.h5"), 0);
  write_scores(both, folder.path / "both.h5");
  const std::string path = (folder.path / "both.h5").string();

  const json result = json::parse(
      call({"search", path, "--frontier", "memory", "--limit", "throughput>=1", "--points", "20", "--json"}).out);
  EXPECT_EQ(result.at("limit"), "memory (chat)");
  EXPECT_EQ(result.at("points").size(), 20u);
  std::set<json> batches;
  for (const json& point : result.at("points")) {
    // The oracle: a search under this limit, which solves for both batch sizes.
    const json alone =
        json::parse(call({"search", path, "--limit", "throughput>=1", "--limit",
                          fmt::format("memory={}B", point.at("limit").get<double>() * (1 + 1e-12)), "--json"})
                        .out);
    EXPECT_NEAR(point.at("predicted").at("kl"), alone.at("students").at(0).at("predicted").at("kl"), 1e-12);
    EXPECT_GE(point.at("predicted").at(point.at("scenarios").at(0).get<std::string>() + ".throughput"), 1);
    EXPECT_LE(point.at("predicted").at(point.at("scenarios").at(0).get<std::string>() + ".memory"),
              point.at("limit").get<double>() * (1 + 1e-12));
    batches.insert(point.at("scenarios"));
  }
  EXPECT_EQ(batches.size(), 2u);
  const std::string table = call({"search", path, "--frontier", "memory", "--limit", "throughput>=1"}).out;
  EXPECT_THAT(table, ContainsRegex("throughput \\(chat\\) +memory \\(chat\\) +batch"));
  EXPECT_THAT(table, ContainsRegex("chat@1 +yes"));
  EXPECT_THAT(table, ContainsRegex("chat@8 +yes"));
}

TEST_F(SearchVerb, RefusesOptionsThatWouldChangeNothing) {
  const auto refused = [&](std::vector<std::string> options) {
    options.insert(options.begin(), {"search", scores});
    const Outcome outcome = call(options);
    EXPECT_EQ(outcome.code, 2) << outcome.out;
    return outcome.err;
  };
  EXPECT_THAT(refused({"--frontier", "memory", "--solutions", "3"}), HasSubstr("has one student for each limit"));
  EXPECT_THAT(refused({"--frontier", "memory", "--min-difference", "3%"}), HasSubstr("has one student for each limit"));
  EXPECT_THAT(refused({"--frontier", "memory", "--resample", "3"}),
              HasSubstr("such as --limit memory=60%, in place of --frontier"));
  EXPECT_THAT(refused({"--limit", "memory=70%", "--points", "3"}), HasSubstr("such as --frontier memory"));
  EXPECT_THAT(refused({"--limit", "memory=70%", "--supported"}), HasSubstr("such as --frontier memory"));
  EXPECT_THAT(refused({"--limit", "memory=70%", "--refine", "2"}), HasSubstr("such as --frontier memory"));
  EXPECT_THAT(refused({"--limit", "memory=70%", "--seed", "2"}), HasSubstr("such as --resample 100"));
  EXPECT_THAT(refused({"--frontier", "memry"}), HasSubstr("did you mean 'memory'?"));
  EXPECT_THAT(refused({"--frontier", "memory=3"}), HasSubstr("write the quantity alone"));
  EXPECT_THAT(refused({"--frontier", "talk.memory"}), HasSubstr("no scenario 'talk'"));
  EXPECT_THAT(refused({"--frontier", "memory", "--limit", "memory=70%"}), HasSubstr("leave the limit on memory out"));
}

TEST_F(SearchVerb, RefusesWhatMeansNothing) {
  const auto refused = [&](const std::string& option, const std::string& value) {
    const Outcome outcome = call({"search", scores, "--limit", "memory=70%", option, value});
    EXPECT_EQ(outcome.code, 2) << outcome.out;
    return outcome.err;
  };
  EXPECT_THAT(refused("--metric", "kk"), HasSubstr("no metric 'kk'; did you mean 'kl'?"));
  EXPECT_THAT(refused("--require", "gqa_2"), HasSubstr("write layers, subblock and variant"));
  EXPECT_THAT(refused("--require", "x:attention=gqa_2"), HasSubstr("found layers 'x'; write 12, 0-3 or all"));
  EXPECT_THAT(refused("--forbid", "0-9:attention=gqa_2"), HasSubstr("the table has layers 0 to 3"));
  EXPECT_THAT(refused("--forbid", "0:attntion=gqa_2"), HasSubstr("did you mean 'attention'?"));
  EXPECT_THAT(refused("--limit", "talk.memory=3GiB"), HasSubstr("no scenario 'talk'"));
  EXPECT_THAT(refused("--min-difference", "200%"), HasSubstr("a part of the layers"));
  for (const char* seconds : {"nan", "inf", "-1", "0", "1e300"})
    EXPECT_THAT(refused("--seconds", seconds), HasSubstr("--seconds")) << seconds;
  EXPECT_THAT(refused("--most-variants", "-1"), HasSubstr("--most-variants"));
  EXPECT_EQ(call({"search", (folder.path / "none.h5").string()}).code, 2);
  const std::string csv = (folder.path / "scores.csv").string();
  EXPECT_THAT(call({"search", csv, "--limit", "memory=70%"}).err,
              HasSubstr("a CSV file, not a score table; first: tangram import-scores " + csv + " --out scores.h5"));
  EXPECT_THAT(call({"inspect", csv}).err, HasSubstr("first: tangram import-scores " + csv + " --out scores.h5"));
  EXPECT_THAT(
      call({"import-scores", csv, "--out", scores, "--scenario", "chat=8/10/4", "--scenario", "chat=1/1/1"}).err,
      HasSubstr("a second scenario 'chat'"));
}

}  // namespace
}  // namespace tangram
