#pragma once
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blocks/model.h"
#include "blocks/safetensors.h"
#include "kernels/communicator.h"

namespace tangram {

/// The processes that train together, which see the same folder.
struct CheckpointRanks {
  int rank = 0, ranks = 1;
  /// A collective: every rank's text, in order of ranks. Needed with more than one rank, by `newest` alone.
  std::function<std::vector<std::string>(const std::string& mine)> exchange = {};
};
CheckpointRanks ranks_of(const Communicator& world);

/// That are on the disk at one time: two, and the one being written.
inline constexpr int64_t kMostCheckpoints = 3;

struct CheckpointOptions {
  CheckpointRanks ranks = {};
  /// Host memory for a copy of the state, from `write` until the part is on disk. A state that takes more is written
  /// before `write` returns.
  int64_t max_snapshot_bytes = INT64_MAX;
  double patience_s = 3600;  ///< that `finish` waits for the part of another rank
};

/// A checkpoint that is whole: every part has the size and SHA-256 that its manifest names.
struct Checkpoint {
  int64_t steps_done = 0;
  SafeTensors state;                     ///< of all parts, as views of the mapped files; with the metadata as written
  std::vector<std::string> passed_over;  ///< what is wrong with newer ones: the file and what was found

  /// Fills tensors of any device from those of the same names, whichever part has them. Throws Error (bad_input) if one
  /// is in no part or has another shape or dtype.
  void read(std::span<const NamedTensor> tensors, Context& ctx) const;
};

/// The state of a training run that goes on while it is written, on as many ranks as there are:
///
///   step-<steps done>/part-<rank>.safetensors   what one rank has: tensors whose names are the run's, not the rank's
///   step-<steps done>/manifest.json             size and SHA-256 of every part; stands there after all of them
///
/// Every file is written under a temporary name, synced and renamed, and a folder without a manifest does not exist for
/// a reader: whatever is killed, the newest checkpoint that has a manifest is whole. At least two are kept, and an
/// older one goes when a newer one has its manifest: on the disk are at most three. The same state gives the same
/// bytes.
///
/// Ranks need not write at the same time, and none waits for another: each leaves a record of its part beside it when
/// that is on disk, and rank 0 writes the manifest, at the first `poll` at which all records are there.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(const std::filesystem::path& path, const CheckpointOptions& options = {});
  /// Waits for the thread. What has no manifest yet gets none.
  ~CheckpointFolder() = default;

  /// The newest whole checkpoint; none if there is none at all. All ranks call it together, before they write, and
  /// share the work of verifying. Removes what killed writes have left. Throws Error (bad_input) naming all of them if
  /// there are some and all are damaged: hours of work do not begin again unasked.
  std::optional<Checkpoint> newest();

  /// In place of `newest`, where another object has found what is there, in this folder or another: what is written
  /// comes behind it.
  void follow(const Checkpoint& newest);

  /// Begins to write this rank's part of the state after `steps_done` steps, which are more than those of any whole
  /// checkpoint; the tensors may change when it returns. A tensor that several ranks have is given by one of them.
  /// `metadata` is rank 0's. Waits for an earlier write.
  void write(int64_t steps_done, std::span<const NamedTensor> tensors,
             const std::map<std::string, std::string>& metadata, Context& ctx);
  /// Whether nothing is being written: on rank 0, what was begun is whole; on others, their part of it is on disk. What
  /// went wrong is thrown as an Error here and in `finish`; the older checkpoints then stay.
  bool poll();
  /// Waits for that.
  void finish();

 private:
  std::vector<std::string> exchange(const std::string& mine) const;
  std::string from_rank_0(const std::function<std::string()>& work) const;
  std::filesystem::path step_path(int64_t steps_done) const;
  std::vector<int64_t> steps() const;
  void remove_leftovers() const;
  Checkpoint open(int64_t steps_done) const;
  std::string open_together(Checkpoint& checkpoint, int64_t steps_done) const;
  void begin(std::span<const NamedTensor> tensors, Context& ctx);
  static void write_part(const std::filesystem::path& path, std::vector<NamedTensor> tensors, Context& ctx);
  std::filesystem::path record_path(int rank) const;
  std::vector<int> missing_records() const;
  void join();
  void publish();
  void remove_others() const;

  std::filesystem::path path_;
  CheckpointOptions options_;
  std::future<void> writing_;                    // of this rank; not valid: nothing is being written
  int64_t step_ = 0;                             // that is being written
  std::map<std::string, std::string> metadata_;  // of it
  bool is_published_ = true;                     // its manifest stands, as far as this rank has to know
  std::vector<int64_t> whole_;                   // steps of the newest that are known to be whole, ascending
};

}  // namespace tangram
