#include "puzzle/score_csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "blocks/file.h"
#include "puzzle/limits.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kTable =
    "layer,attention,ffn,teacher,kl,kl.standard_error,accuracy,chat.weight_bytes,chat.decode_seconds\n"
    "outside,,,,,,0.75,100,0.5\n"
    "0,gqa_2,,1,0,,0.75,20,1\n"
    "0,no_op,,0,0.5,0.125,0.5,0,0\r\n"
    "\n"
    "0,,\"ffn_64\",1,0,,0.75,60,3\n"
    "0, ,ffn_32,,nan,,inf,30,\n";

struct ScoreCsv : testing::Test {
  TestFolder folder;
  CsvMeaning meaning{.scenarios = {{"chat", 8, 4, 2, Precision::bf16}}, .higher_is_better = {"accuracy"}};
  CsvReport report;

  ScoreTable read(const std::string& text) {
    write_file_atomically(folder.path / "t.csv", text);
    report = {};
    return read_score_csv(folder.path / "t.csv", meaning, report);
  }
  std::string refused(const std::string& from, const std::string& to) {
    std::string text = kTable;
    text.replace(text.find(from), from.size(), to);
    const std::string message = message_of([&] { read(text); });
    const std::string path = (folder.path / "t.csv").string();
    return message.starts_with(path) ? message.substr(path.size()) : message;
  }
};

TEST_F(ScoreCsv, ColumnsAreWhatTheirNamesSay) {
  const ScoreTable table = read(kTable);
  EXPECT_EQ(table.layer_count, 1);
  ASSERT_EQ(table.metrics.size(), 2u);
  EXPECT_EQ(table.metrics[0].name, "kl");
  EXPECT_FALSE(table.metrics[0].higher_is_better);
  EXPECT_EQ(table.metrics[0].teacher, 0);  // what the teacher's rows have in common
  EXPECT_TRUE(table.metrics[1].higher_is_better);
  EXPECT_EQ(table.metrics[1].teacher, 0.75);
  ASSERT_EQ(table.rows.size(), 4u);
  EXPECT_TRUE(table.rows[0].teacher);
  EXPECT_EQ(table.rows[1].attention, "no_op");
  EXPECT_EQ(table.rows[1].values[0], 0.5);
  EXPECT_EQ(table.rows[1].standard_errors[0], 0.125);
  EXPECT_EQ(table.rows[2].ffn, "ffn_64");
  EXPECT_EQ(table.rows[2].costs[0].weight_bytes, 60);
  EXPECT_EQ(table.rows[2].costs[0].decode_seconds, 3);
  EXPECT_EQ(table.rows[2].costs[0].kv_cache_bytes, 0);  // no such column
  EXPECT_TRUE(std::isnan(table.rows[3].values[0]) && std::isnan(table.rows[3].values[1]));
  EXPECT_TRUE(std::isnan(table.rows[3].costs[0].decode_seconds));
  EXPECT_EQ(table.outside[0].weight_bytes, 100);
  EXPECT_EQ(report.rows, 4);
  EXPECT_EQ(report.missing_scores, 2);
  EXPECT_EQ(report.missing_costs, 1);
  EXPECT_EQ(figure(table, teacher_rows(table), Quantity::memory, 0), 180);
}

TEST_F(ScoreCsv, CostsWithoutAColumnAreNotKnown) {
  const ScoreTable table = read(kTable);
  EXPECT_TRUE(std::isnan(table.rows[0].costs[0].prefill_seconds) && std::isnan(table.outside[0].prefill_seconds));
  const auto refusal_of = [&](Quantity quantity) {
    const std::vector<Constraint> limits{{quantity, "", 1e9}};
    return message_of([&] { make_problem(table, "kl", limits); });
  };
  EXPECT_THAT(refusal_of(Quantity::latency), HasSubstr("lacks a column prefill_seconds or decode_seconds"));
  EXPECT_THAT(refusal_of(Quantity::time_to_first_token), HasSubstr("lacks a column prefill_seconds"));
  EXPECT_THAT(refusal_of(Quantity::parameters), HasSubstr("lacks a column parameters"));
  EXPECT_EQ(refusal_of(Quantity::memory), "");
  EXPECT_EQ(refusal_of(Quantity::time_per_output_token), "");
}

TEST_F(ScoreCsv, WhatIsTakenAsNothingIsNamed) {
  read(kTable);
  EXPECT_THAT(report.taken_as_zero, ElementsAre(HasSubstr("chat.kv_cache_bytes"), HasSubstr("chat.workspace_bytes")));
  const ScoreTable bare = read("layer,attention,teacher,kl,parameters,prefill_seconds\n0,gqa_2,1,0,4,1\n");
  EXPECT_THAT(report.taken_as_zero, ElementsAre(HasSubstr("no row 'outside'")));
  EXPECT_EQ(bare.outside_parameters, 0);
  EXPECT_EQ(bare.outside[0].prefill_seconds, 0);
  EXPECT_TRUE(std::isnan(bare.outside[0].weight_bytes) && std::isnan(bare.outside[0].decode_seconds));
  read("layer,attention,teacher,kl\n0,gqa_2,1,0\n");  // nothing costs anything, so nothing is left out
  EXPECT_TRUE(report.taken_as_zero.empty());
}

TEST_F(ScoreCsv, ComesBackFromAScoreFile) {
  const ScoreTable table = read(kTable);
  write_scores(table, folder.path / "t.h5");
  const ScoreTable again = read_scores(folder.path / "t.h5");
  ASSERT_EQ(again.rows.size(), table.rows.size());
  EXPECT_EQ(again.rows[1].values, table.rows[1].values);
  EXPECT_EQ(again.sources[0].name, "imported");
}

TEST_F(ScoreCsv, BlocksMayBeRowsOfTheirOwn) {
  const ScoreTable table = read(
      "layer,layers,attention,ffn,teacher,kl\n0,1,gqa_2,ffn_64,1,0\n1,1,gqa_2,ffn_64,1,0\n1,,no_op,ffn_64,0,1\n"
      "0,2,gqa_2,ffn_64,0,2\n");
  EXPECT_EQ(table.layer_count, 2);
  EXPECT_EQ(table.rows[3].layer_count, 2);
  EXPECT_EQ(teacher_rows(table), (std::vector<int64_t>{0, 1}));
}

TEST_F(ScoreCsv, WhatIsWrongIsRefusedWithItsPlace) {
  EXPECT_EQ(refused("layer,", "layers,"), ":1: no column 'layer'");
  EXPECT_EQ(refused(",kl,", ",attention,"), ":1: two columns are called 'attention'");
  EXPECT_EQ(refused(",teacher,", ",,"), ":1: column 4 has no name");
  EXPECT_EQ(refused("kl.standard_error", "kr.standard_error"), ":1: column 'kr.standard_error': no metric 'kr'");
  EXPECT_THAT(refused("chat.weight_bytes", "chad.weight_bytes"), HasSubstr("no scenario 'chad'; did you mean 'chat'"));
  EXPECT_EQ(refused("0,no_op,", "0,"), ":4: 8 fields; the first line names 9 columns");
  EXPECT_EQ(refused("0,no_op,", "0.5,no_op,"), ":4: column 'layer': found '0.5'; must be a whole number");
  EXPECT_EQ(refused("0.125", "little"), ":4: found 'little'; must be a number, or nothing where it is missing");
  EXPECT_EQ(refused("gqa_2,,1", "gqa_2,,yes"), ":3: column 'teacher': found 'yes'; must be 1 or 0");
  EXPECT_THAT(refused("0,no_op,", "-1,no_op,"), HasSubstr("layers from -1 on"));
  EXPECT_THAT(refused("0,no_op,", "0,gqa_2,"), HasSubstr("is there twice"));
  EXPECT_THAT(refused("chat.decode_seconds", "chat.decode_secnds"),
              HasSubstr(":1: no column 'chat.decode_secnds'; did you mean 'decode_seconds'?"));
  EXPECT_THAT(refused("chat.decode_seconds", "chat.workspace_bytes"),
              HasSubstr(":3: column 'workspace_bytes': found '1'"));
  EXPECT_EQ(refused("outside,,,,,,0.75", "outside,,,,,,"), "");  // then the teacher's rows say it
  meaning.scenarios.clear();
  EXPECT_THAT(refused("nan", "nan"), HasSubstr("column 'chat.weight_bytes' is a cost, and no scenario is given"));
}

TEST_F(ScoreCsv, TheTeachersMetricMustBeKnown) {
  EXPECT_THAT(message_of([&] { read("layer,attention,kl\n0,gqa_2,1\n"); }),
              HasSubstr("the teacher's own kl is not known"));
}

}  // namespace
}  // namespace tangram
