#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "puzzle/replace_one.h"
#include "puzzle/score_table.h"

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

/// A limit of a student's target beside what was taken of the quantity, in one scenario.
struct TakenLimit {
  std::string quantity;  ///< as name_of
  double limit = 0, taken = 0;
  bool missed = false;

  bool operator==(const TakenLimit&) const = default;
};

/// The name under which the teacher's own are kept.
inline constexpr const char* kTeacher = "teacher";

/// Times and memory of a whole student in one scenario, for all its sequences together; also the teacher's.
struct MeasuredRuntime {
  std::string name, scenario;
  double prefill_seconds = 0, decode_seconds = 0;
  double weight_bytes = 0, kv_cache_bytes = 0, workspace_bytes = 0;  ///< that it took from the engine's arenas
  bool is_disturbed = false;                                         ///< timed while other work kept the machine busy
  std::vector<TakenLimit> limits = {};                               ///< that it was searched under

  double memory_bytes() const { return weight_bytes + kv_cache_bytes + workspace_bytes; }
};

/// `runtime.json` of a run directory; none were measured where there is no such file. Throws Error (bad_input) if it is
/// damaged.
void write_runtimes(const std::filesystem::path& path, const std::vector<MeasuredRuntime>& runtimes);
std::vector<MeasuredRuntime> read_runtimes(const std::filesystem::path& path);

/// Says that timings may be too long, and what to do: run `verb` again; for people, where some of them were disturbed.
std::string disturbance_text(int64_t disturbed, int64_t timings, std::string_view verb);

/// The same of the times in a score table, a line for each scenario that has disturbed ones; empty where none has.
std::string disturbance_text(const ScoreTable& table);

}  // namespace tangram
