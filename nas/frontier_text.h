#pragma once
#include "nas/found_students.h"
#include "nas/table.h"
#include "puzzle/frontier.h"

namespace tangram {

/// A frontier as a table for people: each limit, the metric and every limited figure of its student, and whether it is
/// proven best.
Table frontier_table(const ScoreTable& table, const SearchResult& found, const Frontier& frontier, size_t limit,
                     const std::string& metric);

/// The same as JSON, with the blocks of every student.
std::string frontier_json(const ScoreTable& table, const SearchResult& found, const Frontier& frontier, size_t limit,
                          const std::string& metric);

}  // namespace tangram
