#pragma once
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tangram {

/// Empty if a run directory's `stage` is complete and its files are there; else "not run yet", "not complete yet",
/// "<file> is gone" or "<record> is damaged". Looks without taking hold of the directory.
std::string reason_incomplete(const std::filesystem::path& root, std::string_view stage);

/// The folder of one run: what its stages made, and which of them are complete.
///
///   config.yaml            the config in effect
///   run.json               the teacher's digest
///   stages/<stage>.json    a complete stage: digest of what it read, digest and names of what it wrote
///   work/<stage>/          of a stage that is not complete: its checkpoints
///   and what the stages write
///
/// One process at a time holds a run directory.
class RunDirectory {
 public:
  /// Creates the folder if there is none, locks it, and removes what a killed process left half-written (*.tmp). Throws
  /// Error if another process holds it, if it has results of another teacher, or if it is some other, non-empty folder.
  RunDirectory(const std::filesystem::path& root, const std::string& teacher_digest);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path root;

  /// Empty if `stage` is complete for inputs of digest `inputs` and its files are there; else the reason why it has to
  /// run: that of reason_incomplete, or "its settings or inputs have changed".
  std::string reason_to_run(std::string_view stage, const std::string& inputs) const;

  /// Digest of what a complete stage wrote. Throws Error if it is not complete.
  std::string output_digest(std::string_view stage) const;

  /// The stage is not complete from now on. Returns its work folder: with the checkpoints of an earlier attempt if that
  /// had the same inputs, else empty.
  std::filesystem::path begin(std::string_view stage, const std::string& inputs);

  /// The stage is complete and wrote `outputs`, files or folders below root. Drops the work folder.
  void complete(std::string_view stage, const std::string& inputs, std::span<const std::filesystem::path> outputs);

 private:
  std::filesystem::path record_path(std::string_view stage) const;
  std::filesystem::path work_path(std::string_view stage) const;

  int lock_ = -1;
};

}  // namespace tangram
