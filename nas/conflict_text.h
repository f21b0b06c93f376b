#pragma once
#include <nlohmann/json.hpp>
#include <optional>

#include "nas/found_students.h"

namespace tangram {

/// A limit as people say it, and of the teacher's too where it was given so: `at most 60 GiB (60 % of the teacher's)`.
std::string asked_text(const LinearLimit& limit);

/// A bound for a limit under which `total` is allowed: rounded to the side on which it is, in units that parse_limit
/// reads, and where the limit was given as a part of the teacher's also so: `60.01 GiB (75.02 % of the teacher's)`.
std::string relaxed_text(const LinearLimit& limit, double total);

/// The student that comes nearest to keeping all limits of an infeasible search, within its rules and number of
/// variants; none if no student keeps those.
std::optional<ChosenArchitecture> nearest_student(const ScoreTable& table, const SearchResult& found,
                                                  const std::string& metric);

/// Why a search is infeasible: what excludes each other, which change of one thing alone would do, and the student that
/// comes nearest, with how far its figures are off and its blocks. Several lines.
std::string conflict_text(const ScoreTable& table, const SearchResult& found, const std::string& metric);

/// The same as JSON, with the exact figures.
nlohmann::ordered_json conflict_json(const ScoreTable& table, const SearchResult& found, const std::string& metric);

}  // namespace tangram
