#pragma once
#include <string>
#include <vector>

namespace tangram {

/// Rows of cells under a header, for terminals and plain-text reports.
struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  ///< none longer than the header
};

/// The table with aligned columns: a rule below the header, numbers to the right, words to the left. A column counts as
/// numbers if every cell in it but "" and "-" begins as a number does. Cells are UTF-8, one column a code point.
std::string format_table(const Table& table);

/// The same, in as many tables one below the other as keep lines within `width`, each with the first column; a line is
/// longer only where one column alone is too wide.
std::string format_wide_table(const Table& table, size_t width);

}  // namespace tangram
