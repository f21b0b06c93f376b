#pragma once
#include <nlohmann/json.hpp>

#include "nas/architecture_file.h"
#include "nas/table.h"
#include "puzzle/context_search.h"
#include "puzzle/search.h"

namespace tangram {

/// A solution as an architecture file keeps it, without name, target and method: its blocks, whether it is proven best,
/// and every figure that the table predicts of it: `kl_divergence`, `parameters`, `chat.memory`.
ChosenArchitecture student_of(const ScoreTable& table, const Problem& problem, const Solution& solution,
                              const std::string& metric);

/// The same for what a search in context came to: the metric is that search's last prediction, and nothing is proven.
ChosenArchitecture student_in_context(const ScoreTable& table, const Problem& problem, const ContextResult& found,
                                      const std::string& metric);

/// The names of servers.
std::vector<std::string> server_names(std::span<const Server* const> servers);

/// Of a search on which `servable` has a say: the KV heads that were chosen. Empty where none were.
std::string kv_heads_text(const SearchResult& found);

/// The names of scenarios.
std::vector<std::string> scenario_names(const ScoreTable& table, const std::vector<size_t>& scenarios);

/// The blocks of a student, equal neighbours in one row: the teacher's layers `0-3`, attention, ffn, and whether they
/// were scored together or are the sum of their parts.
Table block_table(const ChosenArchitecture& student);

/// The blocks as a JSON list.
nlohmann::ordered_json blocks_json(const ChosenArchitecture& student);

/// Throws Error where the solver ran out of time; otherwise there is a student, or the search is infeasible.
void check_answered(const SearchResult& found, const std::string& what);

}  // namespace tangram
