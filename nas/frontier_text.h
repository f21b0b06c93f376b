#pragma once
#include <optional>

#include "nas/found_students.h"
#include "nas/table.h"
#include "puzzle/table_frontier.h"

namespace tangram {

/// A frontier as a table for people: each limit, the metric and every limited figure of its student, the batch size
/// where that is free, whether it is proven best and, if asked for, whether it is supported.
Table frontier_table(const ScoreTable& table, const TableFrontier& traced, const std::string& metric);

/// The same as JSON, with the blocks of every student.
std::string frontier_json(const ScoreTable& table, const TableFrontier& traced, const std::string& metric);

/// Nothing where a frontier has a point; else the search that says why it has none, infeasible. `request` is that of
/// the frontier. Throws Error, beginning with `what`, where the solver ran out of time.
std::optional<SearchResult> why_empty(const ScoreTable& table, const TableFrontier& traced, SearchRequest request,
                                      const Constraint& moved, const std::string& what);

}  // namespace tangram
