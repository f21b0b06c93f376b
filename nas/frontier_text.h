#pragma once
#include "nas/found_students.h"
#include "nas/table.h"
#include "puzzle/table_frontier.h"

namespace tangram {

/// A frontier as a table for people: each limit, the metric and every limited figure of its student, the batch size
/// where that is free, and whether it is proven best.
Table frontier_table(const ScoreTable& table, const TableFrontier& traced, const std::string& metric);

/// The same as JSON, with the blocks of every student.
std::string frontier_json(const ScoreTable& table, const TableFrontier& traced, const std::string& metric);

/// Throws as the other check_found does, unless there is a student; `request` is that of the frontier.
void check_found(const ScoreTable& table, const TableFrontier& traced, SearchRequest request, const Constraint& moved,
                 const std::string& what);

}  // namespace tangram
