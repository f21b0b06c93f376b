#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "puzzle/replace_one.h"

namespace tangram {

/// What was measured of one model on held-out text.
struct Evaluation {
  std::string name;    ///< of the architecture; `teacher`
  std::string target;  ///< the constraint set; empty for the teacher
  std::string method;  ///< teacher, mip, greedy, …
  std::string state;   ///< `assembled` from the library, `healed`, or `undistilled`: variants as they were initialised
  int64_t parameters = 0;
  std::array<MeanAndError, kMetricCount> metrics;
  std::map<std::string, std::pair<int64_t, int64_t>> skills;  ///< right and total answers, where there are skills
};

/// `evaluation.json` of a run directory.
void write_evaluations(const std::filesystem::path& path, const std::vector<Evaluation>& evaluations);
/// Throws Error (bad_input) if the file is missing or damaged.
std::vector<Evaluation> read_evaluations(const std::filesystem::path& path);

}  // namespace tangram
