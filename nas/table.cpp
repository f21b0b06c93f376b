#include "nas/table.h"

#include <algorithm>

#include "kernels/error.h"

namespace tangram {
namespace {

size_t width_of(const std::string& cell) {
  return static_cast<size_t>(std::count_if(cell.begin(), cell.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

bool looks_numeric(const std::string& cell) {
  const size_t first = cell.find_first_not_of("+-.");
  return first != std::string::npos && cell[first] >= '0' && cell[first] <= '9';
}

struct Column {
  size_t width = 0;
  bool numeric = true;
};

std::string format_row(const std::vector<std::string>& row, const std::vector<Column>& columns) {
  std::string line;
  for (size_t c = 0; c < row.size(); ++c) {
    const std::string padding(columns[c].width - width_of(row[c]), ' ');
    line += (c > 0 ? "  " : "") + (columns[c].numeric ? padding + row[c] : row[c] + padding);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::vector<Column> columns_of(const Table& table) {
  std::vector<Column> columns(table.header.size());
  for (size_t c = 0; c < columns.size(); ++c) columns[c].width = width_of(table.header[c]);
  for (const std::vector<std::string>& row : table.rows) {
    CHECK(row.size() <= columns.size(), "a row has {} cells, the header {}", row.size(), columns.size());
    for (size_t c = 0; c < row.size(); ++c) {
      columns[c].width = std::max(columns[c].width, width_of(row[c]));
      columns[c].numeric &= row[c].empty() || row[c] == "-" || looks_numeric(row[c]);
    }
  }
  return columns;
}

}  // namespace

std::string format_table(const Table& table) {
  const std::vector<Column> columns = columns_of(table);
  size_t total = columns.empty() ? 0 : 2 * (columns.size() - 1);
  for (const Column& column : columns) total += column.width;
  std::string text = format_row(table.header, columns) + std::string(total, '-') + "\n";
  for (const std::vector<std::string>& row : table.rows) text += format_row(row, columns);
  return text;
}

std::string format_wide_table(const Table& table, size_t width) {
  const std::vector<Column> columns = columns_of(table);
  std::string text;
  for (size_t first = 1, end = 1; first < columns.size() || text.empty(); first = end) {
    size_t total = columns[0].width;
    while (end < columns.size() && (end == first || total + 2 + columns[end].width <= width))
      total += 2 + columns[end++].width;
    const auto part_of = [&](const std::vector<std::string>& row) {
      std::vector<std::string> part = {row[0]};
      for (size_t c = first; c < std::min(end, row.size()); ++c) part.push_back(row[c]);
      return part;
    };
    Table part{.header = part_of(table.header), .rows = {}};
    for (const std::vector<std::string>& row : table.rows) part.rows.push_back(part_of(row));
    if (!text.empty()) text += '\n';
    text += format_table(part);
  }
  return text;
}

}  // namespace tangram
