// The measure stage as a whole process: what it takes, keeps, models and fits.

#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "nas/hardware_file.h"
#include "puzzle/limits.h"
#include "tests/nas/command_line.h"
#include "tests/nas/search_process.h"

namespace tangram {
namespace {

using testing::HasSubstr;

struct MeasureStage : testing::Test {
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

  // A copy of the finished run.
  std::string fresh(const std::string& name) {
    fs::copy(search().path("run"), search().path(name), fs::copy_options::recursive);
    return name;
  }
  std::string measure(const std::string& run, std::vector<std::string> settings,
                      std::vector<std::string> options = {}) {
    std::vector<std::string> arguments = {"measure"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    return search().call(arguments, run);
  }
  static ScoreTable table_of(const std::string& run) { return read_scores(search().path(run + "/scores.h5")); }
};

// What was measured is kept, unless it is asked for again: then a time that nothing takes is gone.
TEST_F(MeasureStage, MeasuresAgainWhereAsked) {
  const std::string run = fresh("again");
  ScoreTable table = table_of(run);
  constexpr double kNever = 12345;
  table.rows[0].costs[0].decode_seconds = kNever;
  write_scores(table, search().path(run + "/scores.h5"));
  measure(run, {}, {"--again"});
  ASSERT_TRUE(search().succeeded());
  EXPECT_LT(table_of(run).rows[0].costs[0].decode_seconds, kNever);
  EXPECT_EQ(table_of(run).rows[0].values, table.rows[0].values);
}

TEST_F(MeasureStage, LearnsHowWholesDifferFromSumsOfParts) {
  const ScoreTable table = table_of("run");
  ASSERT_EQ(table.scenarios.size(), 1u);
  const CostSource& source = table.sources[0];
  EXPECT_EQ(source.name, "measured");
  for (const double factor : {source.prefill_factor, source.decode_factor}) {
    EXPECT_GT(factor, 0.1);
    EXPECT_LT(factor, 10);
  }
  EXPECT_GE(source.prefill_error, 0.01);
  EXPECT_GE(source.decode_error, 0.01);
  EXPECT_GT(figure_error(table, teacher_rows(table), Quantity::latency, 0), 0);
  const auto inspect = [](std::vector<std::string> options) {
    options.insert(options.begin(), {"inspect", search().path("run/scores.h5")});
    return call_with(options, all_stages(), all_model_verbs()).out;
  };
  const std::string shown = inspect({});
  EXPECT_THAT(shown, HasSubstr("8 tokens in, 8 out, 2 sequences, f32; measured for"));
  EXPECT_THAT(shown, HasSubstr(fmt::format("decode: whole models take {:.3f} times the sum", source.decode_factor)));
  EXPECT_EQ(nlohmann::json::parse(inspect({"--json"})).at("scenarios").at(0).at("prefill_factor"),
            source.prefill_factor);
}

TEST_F(MeasureStage, WhatWasMeasuredIsNotMeasuredAgain) {
  const std::string run = fresh("more");
  measure(run, {"scenarios.t={input_tokens: 4, output_tokens: 4, concurrency: [1, 2], precision: f32}"});
  ASSERT_TRUE(search().succeeded());
  const ScoreTable was = table_of("run"), now = table_of(run);
  ASSERT_EQ(now.scenarios.size(), 3u);
  EXPECT_EQ(now.scenarios[2].name, "t@2");
  EXPECT_EQ(now.outside[0].decode_seconds, was.outside[0].decode_seconds);
  EXPECT_EQ(now.rows[3].costs[0].decode_seconds, was.rows[3].costs[0].decode_seconds);
  EXPECT_FALSE(std::isnan(now.rows[3].costs[2].decode_seconds));
}

TEST_F(MeasureStage, ModelsHardwareThatIsNotHere) {
  const std::string run = fresh("modelled");
  const std::vector<std::string> eight = {"scenarios.s.precision=fp8", "scenarios.s.tensor_parallel=2"};
  EXPECT_NE(measure(run, eight).find("cannot run fp8 yet, so it cannot be measured; it can be modelled"),
            std::string::npos);
  EXPECT_EQ(search().exit_code(), 2);
  EXPECT_NE(measure(run, {eight[0], "hardware=a100-80gb"}).find("a100-80gb has no arithmetic in fp8"),
            std::string::npos);
  EXPECT_EQ(search().exit_code(), 2);
  const std::string printed = measure(run, {eight[0], eight[1], "hardware=h100-80gb"});
  ASSERT_TRUE(search().succeeded()) << printed;
  const ScoreTable table = table_of(run);
  EXPECT_EQ(table.sources[0].name, source_name(known_hardware("h100-80gb")));
  EXPECT_EQ(table.scenarios[0].tensor_parallel, 2);
  for (const TableRow& row : table.rows) EXPECT_FALSE(std::isnan(row.costs[0].decode_seconds));
  EXPECT_GT(figure(table, teacher_rows(table), Quantity::throughput, 0), 0);
  // And measured again, since modelled times are another machine's.
  measure(run, {"hardware=this"});
  ASSERT_TRUE(search().succeeded());
  EXPECT_EQ(table_of(run).sources[0].name, "measured");
}

// A narrower FFN that seems to take longer than a wider one, as beside other work, is measured again.
TEST_F(MeasureStage, TimesThatContradictOthersAreTakenAgain) {
  const std::string run = fresh("odd");
  ScoreTable table = table_of(run);
  constexpr double kNever = 12345;
  int64_t planted = 0;
  for (TableRow& row : table.rows)
    if (row.attention.empty() && row.ffn == "ffn_24") row.costs[0].decode_seconds = kNever, ++planted;
  ASSERT_GT(planted, 0);
  write_scores(table, search().path(run + "/scores.h5"));
  const std::string printed =
      measure(run, {"scenarios.t={input_tokens: 4, output_tokens: 4, concurrency: 1, precision: f32}"});
  ASSERT_TRUE(search().succeeded()) << printed;
  EXPECT_THAT(printed, testing::ContainsRegex("measure s: measured again, as it did not go with others: [1-9] of "));
  for (const TableRow& row : table_of(run).rows) EXPECT_LT(row.costs[0].decode_seconds, kNever);
  EXPECT_GE(table_of(run).sources[0].timings, table.sources[0].timings + 3) << "that one, and the two whole models";
}

TEST_F(MeasureStage, CalibrationSaysWhatItLeavesOut) {
  const std::string run = fresh("disturbed");
  ScoreTable table = table_of(run);
  EXPECT_EQ(std::isnan(table.outside[0].is_disturbed), false);
  for (TableRow& row : table.rows) {
    EXPECT_FALSE(std::isnan(row.costs[0].is_disturbed));
    row.costs[0].is_disturbed = row.ffn == "linear" && row.attention.empty();
  }
  table.outside[0].is_disturbed = 0;
  write_scores(table, search().path(run + "/scores.h5"));
  const std::string printed = measure(run, {}, {"--calibrate"});
  ASSERT_TRUE(search().succeeded()) << printed;
  EXPECT_THAT(printed, testing::ContainsRegex("2 of [0-9]+ points were timed while other work kept the machine busy, "
                                              "and are left out"));
}

TEST_F(MeasureStage, CalibrationDescribesThisMachine) {
  const std::string run = fresh("calibrated");
  const std::string printed = measure(run, {}, {"--calibrate"});
  ASSERT_TRUE(search().succeeded()) << printed;
  EXPECT_NE(printed.find("after / measured"), std::string::npos) << printed;
  const std::string file = search().path(run + "/calibrated.yaml");
  const Hardware hardware = read_hardware(file);
  EXPECT_GT(hardware.residual, 0);
  // Modelled with it, the teacher takes about what it took.
  const ScoreTable measured = table_of(run);
  const std::string again = measure(run, {"hardware=" + file});
  ASSERT_TRUE(search().succeeded()) << again;
  const ScoreTable modelled = table_of(run);
  EXPECT_EQ(modelled.sources[0].name, source_name(hardware));
  double sum[2] = {};
  for (const int64_t r : teacher_rows(measured)) {
    sum[0] += measured.rows[size_t(r)].costs[0].decode_seconds;
    sum[1] += modelled.rows[size_t(r)].costs[0].decode_seconds;
  }
  EXPECT_GT(sum[1], sum[0] / 3);
  EXPECT_LT(sum[1], sum[0] * 3);
  EXPECT_NE(measure(run, {"hardware=h200"}, {"--calibrate"}).find("with --set hardware=this it is measured"),
            std::string::npos);
  EXPECT_EQ(search().exit_code(), 2);
}

}  // namespace
}  // namespace tangram
