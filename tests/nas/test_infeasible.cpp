// What `tangram search` answers where the limits and rules cannot be met.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "nas/architecture_file.h"
#include "nas/conflict_text.h"
#include "nas/limit_text.h"
#include "nas/model_verbs.h"
#include "nas/stages.h"
#include "tests/nas/score_folder.h"

namespace tangram {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

/// Three layers: attention of 100 bytes or none, FFNs of 300 or 150. The teacher takes 1200 bytes, the smallest 450.
/// The time is 1 s for 100 bytes: 40 tokens in 12 s of the teacher's, 4.5 s of the smallest.
struct Infeasible : ScoreFolder {
  Outcome search(std::vector<std::string> options) {
    options.insert(options.begin(), {"search", scores});
    return call(options);
  }

  void SetUp() override {
    std::string csv;
    for (int layer = 0; layer < 3; ++layer)
      csv += fmt::format(
          "{0},gqa_2,,1,0,100,0,1\n{0},no_op,,0,1,0,0,0\n{0},,ffn_64,1,0,300,0,3\n{0},,ffn_32,0,2,150,0,1.5\n", layer);
    const Outcome imported = import(csv);
    ASSERT_EQ(imported.code, 0) << imported.err;
  }
};

TEST_F(Infeasible, RulesThatExcludeEachOtherAreNamed) {
  const auto answer = [&](const std::vector<std::string>& options) {
    const Outcome none = search(options);
    EXPECT_EQ(none.code, 3) << none.err;
    return none.err;
  };
  EXPECT_THAT(answer({"--forbid", "1:attention=gqa_2", "--forbid", "all:attention=no_op", "--limit", "memory=90%"}),
              HasSubstr("these exclude each other:\n  forbid 1:attention=gqa_2\n  forbid 0-2:attention=no_op\n"
                        "any one of these changes alone would do:\n  without forbid 1:attention=gqa_2\n"));
  EXPECT_THAT(answer({"--require", "0:ffn=ffn_64", "--require", "0-1:ffn=ffn_32", "--forbid", "2:ffn=ffn_32"}),
              HasSubstr("these exclude each other:\n  require 0:ffn=ffn_64\n  require 0-1:ffn=ffn_32\n"));
  EXPECT_THAT(answer({"--require", "0:ffn=ffn_64", "--forbid", "0:ffn=ffn_64"}),
              HasSubstr("no student at all keeps the rules"));
  // Beside a limit: two wide FFNs and the smallest of the rest take 750 of 1200 bytes, one 600.
  const std::string both = answer({"--require", "0:ffn=ffn_64", "--require", "1:ffn=ffn_64", "--limit", "memory=60%"});
  EXPECT_THAT(both, HasSubstr("these exclude each other:\n  memory (chat): at most 720 B (60 % of the teacher's)\n"
                              "  require 0:ffn=ffn_64\n  require 1:ffn=ffn_64\n"
                              "any one of these changes alone would do:\n"
                              "  memory (chat): 750 B (62.5 % of the teacher's)\n"
                              "  without require 0:ffn=ffn_64\n  without require 1:ffn=ffn_64\n"));
  EXPECT_THAT(both, HasSubstr("the nearest student is 4.17 % beyond the limits"));
  EXPECT_EQ(search({"--require", "0:ffn=ffn_63"}).code, 2);
}

TEST_F(Infeasible, SaysHowManyVariantsWouldDo) {
  // At most 900 bytes with two variants: three narrow FFNs, which take 750 bytes with all attention.
  EXPECT_EQ(search({"--limit", "memory=900B", "--most-variants", "2"}).code, 0);
  // One layer without attention and one with is a third variant: with wide FFNs, 1000 bytes.
  const Outcome none = search({"--limit", "memory=1000B", "--require", "0:attention=no_op", "--require",
                               "1:attention=gqa_2", "--require", "1:ffn=ffn_64", "--most-variants", "2"});
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.err, HasSubstr("these exclude each other:\n  at most 2 different variants\n"
                                  "  require 0:attention=no_op\n  require 1:attention=gqa_2\n"
                                  "any one of these changes alone would do:\n  at most 3 different variants\n"
                                  "  without require 1:attention=gqa_2\n"));
  EXPECT_THAT(none.err, Not(HasSubstr("out of reach")));
  EXPECT_THAT(none.err, Not(HasSubstr("  memory (chat)"))) << "it is kept by students of more variants";

  // Of one variant there is no student; of two there is, but not within 600 bytes: three narrow FFNs and no attention.
  const json alone = json::parse(search({"--limit", "memory=600B", "--most-variants", "1", "--json"}).out);
  EXPECT_EQ(alone.at("most_variants"),
            json({{"asked", 1}, {"in_conflict", true}, {"relaxation", 2}, {"proven", true}}));
  EXPECT_EQ(alone.at("limits").at(0).at("in_conflict"), false);
  EXPECT_EQ(alone.at("limits").at(0).at("any_student"), 450);
  EXPECT_EQ(alone.at("limits").at(0).at("relaxation"), nullptr);
  EXPECT_EQ(alone.at("nearest"), nullptr);
}

TEST_F(Infeasible, AnswersInJsonAndKeepsTheNearestStudent) {
  const std::string out = (folder.path / "students").string();
  const Outcome none = search({"--limit", "memory=30%", "--limit", "throughput>=1.1x", "--json", "--out", out});
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.err, HasSubstr("nearest.yaml"));
  EXPECT_THAT(none.err, HasSubstr("no student keeps the limits\n"));
  const json answer = json::parse(none.out);
  EXPECT_EQ(answer.at("status"), "infeasible");
  EXPECT_EQ(answer.at("proven"), true);
  const json& memory = answer.at("limits").at(0);
  EXPECT_EQ(memory.at("name"), "memory (chat)");
  EXPECT_EQ(memory.at("asked"), 360);
  EXPECT_EQ(memory.at("asked_of_teacher"), 0.3);
  EXPECT_EQ(memory.at("in_conflict"), true);
  EXPECT_EQ(memory.at("relaxation"), 450);
  EXPECT_EQ(memory.at("relaxation_of_teacher"), 0.375);
  const json& throughput = answer.at("limits").at(1);
  EXPECT_EQ(throughput.at("is"), "at least");
  EXPECT_EQ(throughput.at("in_conflict"), false);
  EXPECT_EQ(throughput.at("relaxation"), nullptr) << "a slower student is no smaller";
  EXPECT_DOUBLE_EQ(throughput.at("any_student"), 40 / 4.5);
  EXPECT_EQ(answer.at("most_variants"), nullptr);
  EXPECT_EQ(answer.at("rules"), json::array());
  const json& nearest = answer.at("nearest");
  EXPECT_DOUBLE_EQ(nearest.at("excess"), 0.25);
  EXPECT_DOUBLE_EQ(nearest.at("beyond").at("memory (chat)"), 0.25);
  EXPECT_EQ(nearest.at("beyond").at("throughput (chat)"), 0);
  EXPECT_EQ(nearest.at("predicted").at("chat.memory"), 450);
  ASSERT_EQ(nearest.at("blocks").size(), 3u);
  for (const json& block : nearest.at("blocks")) EXPECT_EQ(block.at("ffn"), "ffn_32");
  const ChosenArchitecture kept = read_architecture(out + "/nearest.yaml");
  EXPECT_EQ(kept.predicted.at("chat.memory"), 450);
  EXPECT_EQ(kept.method, "nearest");
  EXPECT_FALSE(kept.proven);
  EXPECT_EQ(kept.scenarios, std::vector<std::string>{"chat"});
  EXPECT_FALSE(std::filesystem::exists(out + "/student.yaml"));

  const std::string text = search({"--limit", "memory=30%"}).err;
  EXPECT_THAT(text, HasSubstr("this cannot be kept:\n  memory (chat): at most 360 B (30 % of the teacher's)\n"
                              "out of reach, whatever else is asked:\n"
                              "  memory (chat): the least of any student is 450 B (37.5 % of the teacher's)\n"
                              "this change would do:\n  memory (chat): 450 B (37.5 % of the teacher's)\n"
                              "the nearest student is 25 % beyond the limits\n"));
  EXPECT_THAT(text, ContainsRegex("memory \\(chat\\) +at most 360 B \\(30 % of the teacher's\\) +450 B +25 %"));
  EXPECT_THAT(text, ContainsRegex("0-2 +no_op +ffn_32 +as the sum of its parts"));
}

TEST_F(Infeasible, AFrontierNamesOnlyWhatWasAsked) {
  const Outcome none = search({"--frontier", "throughput", "--limit", "memory=10%"});
  EXPECT_EQ(none.code, 3);
  EXPECT_THAT(none.err, HasSubstr("memory (chat): at most 120 B (10 % of the teacher's)"));
  EXPECT_THAT(none.err, Not(HasSubstr("throughput")));
  const std::string out = (folder.path / "none").string();
  const json answer =
      json::parse(search({"--frontier", "throughput", "--limit", "memory=10%", "--json", "--out", out}).out);
  EXPECT_EQ(answer.at("limits").size(), 1u);
  EXPECT_EQ(answer.at("nearest").at("beyond").size(), 1u);
  EXPECT_TRUE(std::filesystem::exists(out + "/nearest.yaml"));
}

// Each text, read as a limit again, is kept by what it was made of, and no looser than four digits make it.
TEST(RelaxedText, ReadAgainItIsKeptByWhatItWasMadeOf) {
  const auto expect_kept = [](const LinearLimit& limit, double total, double (*read)(const std::string&)) {
    const std::string text = relaxed_text(limit, total);
    const size_t bracket = text.find(" (");
    const double bound = read(text.substr(0, bracket));
    const bool up = limit.tokens == 0;
    const double value = shown(limit, total);
    EXPECT_TRUE(up ? bound >= value * (1 - 1e-13) : bound <= value * (1 + 1e-13)) << text;
    EXPECT_NEAR(bound, value, 1.001e-3 * value) << text;
    const double part = std::stod(text.substr(bracket + 2)) / 100;
    const double own = shown(limit, total) / shown(limit, limit.teacher);
    EXPECT_TRUE(up ? part >= own * (1 - 1e-13) : part <= own * (1 + 1e-13)) << text;
    EXPECT_NEAR(part, own, 1.001e-3 * own) << text;
  };
  LinearLimit memory{.name = "m", .units = "bytes"}, rate{.name = "t", .units = "tokens/s", .tokens = 7},
      latency{.name = "l", .units = "s"}, parameters{.name = "p", .units = "parameters"};
  for (LinearLimit* limit : {&memory, &rate, &latency, &parameters}) limit->teacher = 3e4;
  for (double total = 1.7e-5; total < 3e12; total *= 1.83) {
    if (total > 1) expect_kept(memory, total, [](const std::string& t) { return *parse_bytes(t); });
    if (total > 1) expect_kept(parameters, total, [](const std::string& t) { return *parse_amount(t); });
    if (total < 1e4) expect_kept(latency, total, [](const std::string& t) { return *parse_seconds(t); });
    if (total < 1e3)
      expect_kept(rate, total, [](const std::string& t) { return *parse_amount(t.substr(0, t.find(" tokens"))); });
  }
}

}  // namespace
}  // namespace tangram
