#pragma once
#include <map>

#include "blocks/model.h"
#include "distill/dataset.h"
#include "nas/stages.h"
#include "puzzle/context_search.h"
#include "puzzle/replace_one.h"

namespace tangram {

/// Measures whole students of a run's library beside the teacher, on the tokens that replacements were scored on. What
/// has been measured is kept in the stage's work folder, so that a killed search does not measure it again.
class StudentScorer {
 public:
  /// `metric` is what is measured; the table's rows name the students' parts.
  StudentScorer(const StageInput& in, const ScoreTable& table, Metric metric);

  /// Losses of students that differ from `student` in little: the metric, its sign turned where more of it is better.
  std::vector<double> measure(std::span<const int64_t> student, std::span<const std::vector<int64_t>> others);

 private:
  using Rows = std::vector<int64_t>;

  void measure_missing(std::span<const int64_t> student, std::span<const Rows> missing);
  const LibraryEntry& entry(int64_t row);
  LibraryEntry there_of(const LibraryEntry& entry);  // where the context computes
  std::vector<SubblockWeights> weights_of(std::span<const RowSubblock> subblocks, std::vector<LibraryEntry>& moved);
  Model assembled(std::span<const int64_t> rows);
  void read_known();
  void keep(std::span<const Rows> students);

  const StageInput& in_;
  const ScoreTable& table_;
  const size_t metric_;
  const double sign_;
  const Model teacher_, teacher_there_;  // on the host, and where the context computes
  const TokenDataset tokens_;
  int64_t sequences_, at_once_;
  const std::filesystem::path file_;
  std::map<int64_t, LibraryEntry> entries_;
  std::map<Rows, double> known_;
};

}  // namespace tangram
