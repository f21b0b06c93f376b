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

/// Times and memory of a whole student in one scenario, for all its sequences together.
struct MeasuredRuntime {
  std::string name, scenario;
  double prefill_seconds = 0, decode_seconds = 0;
  double weight_bytes = 0, kv_cache_bytes = 0, workspace_bytes = 0;  ///< that it took from the engine's arenas
  bool is_disturbed = false;                                         ///< timed while other work kept the machine busy
};

/// `runtime.json` of a run directory; none were measured where there is no such file. Throws Error (bad_input) if it is
/// damaged.
void write_runtimes(const std::filesystem::path& path, const std::vector<MeasuredRuntime>& runtimes);
std::vector<MeasuredRuntime> read_runtimes(const std::filesystem::path& path);

/// Says that timings may be too long, and what to do: run `verb` again; for people, where some of them were disturbed.
std::string disturbance_text(int64_t disturbed, int64_t timings, std::string_view verb);

}  // namespace tangram
