#include "nas/table.h"

#include <gtest/gtest.h>

#include <sstream>

namespace tangram {
namespace {

TEST(Table, AWideOneIsSeveralOfTheSameRows) {
  const Table table{.header = {"layer", "first", "second", "third"},
                    .rows = {{"0", "1", "2.5", "3"}, {"10", "4", "5", "600"}}};
  // Columns of 5, 5, 6 and 5 with 2 between any two: 20 hold three of them, 19 two.
  EXPECT_EQ(format_wide_table(table, 27), format_table(table));
  EXPECT_EQ(format_wide_table(table, 20),
            "layer  first  second\n--------------------\n    0      1     2.5\n   10      4       5\n\n"
            "layer  third\n------------\n    0      3\n   10    600\n");
  EXPECT_EQ(format_wide_table(table, 19).find("second"), 60u) << format_wide_table(table, 19);
  // One column a table where not even two fit.
  EXPECT_EQ(format_wide_table(table, 3), format_wide_table(table, 13));
  const Table narrow{.header = {"layer"}, .rows = {{"3"}}};
  EXPECT_EQ(format_wide_table(narrow, 3), format_table(narrow));
}

TEST(Table, LinesOfAWideOneFit) {
  Table table{.header = {"layer"}, .rows = {{"0"}, {"1"}}};
  for (int c = 0; c < 54; ++c) {
    table.header.push_back("gqa_8+ffn_" + std::to_string(c * c * 31));
    for (std::vector<std::string>& row : table.rows) row.push_back("0.12345");
  }
  std::istringstream lines(format_wide_table(table, 120));
  size_t cells = 0, widest = 0;
  for (std::string line; std::getline(lines, line);) {
    widest = std::max(widest, line.size());
    for (size_t at = line.find("0.12345"); at != std::string::npos; at = line.find("0.12345", at + 1)) ++cells;
  }
  EXPECT_EQ(cells, 108u);
  EXPECT_LE(widest, 120u);
  EXPECT_GT(widest, 100u);
}

}  // namespace
}  // namespace tangram
