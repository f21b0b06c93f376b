#include "nas/found_students.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tangram {
namespace {

using testing::ElementsAre;

// A table as other tools have it: whole layers, the teacher's too.
ScoreTable imported() {
  ScoreTable table{.layer_count = 3};
  const size_t kl = add_metric(table, {"kl_divergence", "nats", false, 0});
  const auto row = [&](int64_t layer, const char* attention, const char* ffn, double value, bool teacher) {
    TableRow& r = row_of(table, layer, 1, attention, ffn);
    r.values[kl] = value, r.parameters = 1, r.teacher = teacher;
  };
  for (int64_t layer = 0; layer < 2; ++layer) row(layer, "gqa_4", "ffn_64", 0, true);
  row(1, "no_op", "ffn_64", 0.5, false);
  row(2, "gqa_4", "", 0, true), row(2, "", "ffn_64", 0, true), row(2, "", "ffn_32", 0.25, false);
  return table;
}

std::vector<std::string> scored(const std::vector<int64_t>& rows) {
  const ScoreTable table = imported();
  const TableProblem made = make_problem(table, "kl_divergence", std::vector<Constraint>{});
  std::vector<int32_t> entries;
  for (const int64_t r : rows) entries.push_back(static_cast<int32_t>(r));
  const ChosenArchitecture student = student_of(table, made.problem, evaluate(made.problem, entries), "kl_divergence");
  std::vector<std::string> how;
  for (const std::vector<std::string>& cells : block_table(student).rows) how.push_back(cells[0] + " " + cells[3]);
  return how;
}

TEST(FoundStudents, SayHowEachLayerWasScored) {
  EXPECT_THAT(scored({0, 2, 3, 5}), ElementsAre("0 the teacher's own", "1 together", "2 as the sum of its parts"));
  EXPECT_THAT(scored({0, 1, 3, 4}), ElementsAre("0-2 the teacher's own"));
}

}  // namespace
}  // namespace tangram
