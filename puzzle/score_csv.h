#pragma once
#include <filesystem>
#include <span>
#include <string>

#include "puzzle/score_table.h"

namespace tangram {

/// What a table of comma-separated values does not say of itself.
struct CsvMeaning {
  std::vector<Scenario> scenarios = {};            ///< that its costs are given for
  std::vector<std::string> higher_is_better = {};  ///< metrics; of all others less is better
  std::map<std::string, std::string> units = {};   ///< of metrics, where they have one
};

/// What was odd in it.
struct CsvReport {
  int64_t rows = 0;
  int64_t missing_scores = 0, missing_costs = 0;  ///< cells that are empty, NaN or infinite
  std::vector<std::string> taken_as_zero = {};    ///< costs that the text does not have, in words
};

/// A score table from a text of comma-separated values (RFC 4180: fields may be quoted), so that what other tools have
/// scored can be searched. The first line names the columns, in any order:
///
///   layer                  0, 1, …; the row `outside` has the costs outside the blocks and the teacher's own metrics
///   layers                 that the row's block stands for; 1 if the column is missing
///   attention, ffn         names of variants; an empty one stays the teacher's
///   teacher                1 for the teacher's own, else 0
///   parameters
///   weight_bytes, kv_cache_bytes, prefill_seconds, decode_seconds, workspace_bytes (outside only)
///                          of the one scenario, or with its name in front: chat.weight_bytes
///   X.standard_error       of the metric X
///   anything else          a metric
///
/// A cost whose column is missing is not known, and a limit that needs it is refused. Beside weight_bytes, the other
/// two columns of bytes may be missing and are then 0, and so are the costs outside the blocks where there is no such
/// row: the report names them. A cell that is empty or no finite number is missing, and such replacements are left out
/// of searches. The teacher's own metrics are those of the row `outside`, or else those that all of its own rows have
/// in common.
///
/// Throws Error (bad_input) with file and line for text that is malformed, numbers that are none, unknown scenarios,
/// rows that are there twice, and for a table without a metric or without the teacher's own.
ScoreTable read_score_csv(const std::filesystem::path& path, const CsvMeaning& meaning, CsvReport& report);

}  // namespace tangram
