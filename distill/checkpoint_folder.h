#pragma once
#include <chrono>
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

/// The processes that train together. Each calls the functions of its CheckpointFolder at the same places of its run.
struct CheckpointRanks {
  int rank = 0, ranks = 1;
  /// A collective: every rank's text, in order of ranks. Needed with more than one rank; called from the thread that
  /// calls the folder, never from the one that writes.
  std::function<std::vector<std::string>(const std::string& mine)> exchange = {};
};
CheckpointRanks ranks_of(const Communicator& world);

struct CheckpointOptions {
  CheckpointRanks ranks = {};
  /// Host memory for a copy of the state, from `write` until the part is on disk. A state that takes more is written
  /// before `write` returns.
  int64_t max_snapshot_bytes = INT64_MAX;
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
/// A write has two halves, since its thread cannot take part in collectives. `write` copies the state and begins;
/// `poll`, which every rank calls before every `write` and as often as it likes, exchanges whether all parts are on
/// disk, and on the first call at which they are, the same one on all ranks, rank 0 writes the manifest. It exchanges
/// nothing while nothing is being written. Where ranks wait for files, they exchange every second that they live: only
/// a dead one is a timeout. All ranks see the same folder.
class CheckpointFolder {
 public:
  explicit CheckpointFolder(const std::filesystem::path& path, const CheckpointOptions& options = {});
  /// Waits for the thread. What has no manifest yet gets none.
  ~CheckpointFolder() = default;

  /// The newest whole checkpoint; none if there is none at all. Ranks share the work of verifying. Removes what killed
  /// writes have left. Throws Error (bad_input) naming all of them if there are some and all are damaged: hours of work
  /// do not begin again unasked.
  std::optional<Checkpoint> newest();

  /// Begins to write this rank's part of the state after `steps_done` steps, which are more than those of any whole
  /// checkpoint; the tensors may change when it returns. A tensor that several ranks have is given by one of them.
  /// `metadata` is rank 0's. Waits for an earlier write.
  void write(int64_t steps_done, std::span<const NamedTensor> tensors,
             const std::map<std::string, std::string>& metadata, Context& ctx);
  /// Whether nothing is being written: what was begun is whole. What went wrong on any rank is thrown as an Error on
  /// all of them, here and in `finish`; the older checkpoints then stay.
  bool poll();
  /// Waits until what was begun is whole.
  void finish();

 private:
  struct Part {
    int64_t bytes = 0;
    std::string sha256;
  };

  std::vector<std::string> exchange(const std::string& mine) const;
  Error failure_of(size_t rank, const std::string& what) const;
  std::string from_rank_0(const std::function<std::string()>& work) const;
  std::filesystem::path step_path(int64_t steps_done) const;
  template <class T>
  bool all_ready(const std::future<T>& work, std::chrono::milliseconds patience) const;
  std::vector<int64_t> steps() const;
  void remove_leftovers() const;
  Checkpoint open(int64_t steps_done) const;
  std::string open_together(Checkpoint& checkpoint, int64_t steps_done) const;
  void begin(std::span<const NamedTensor> tensors, Context& ctx);
  static Part write_part(const std::filesystem::path& path, std::vector<NamedTensor> tensors, Context& ctx);
  std::vector<Part> gather_parts();
  void write_manifest(const std::vector<Part>& parts) const;
  void remove_others() const;
  void publish();

  std::filesystem::path path_;
  CheckpointOptions options_;
  std::future<Part> writing_;                    // of this rank; not valid: nothing is being written
  int64_t step_ = 0;                             // that is being written
  std::map<std::string, std::string> metadata_;  // of it
  std::vector<int64_t> whole_;                   // steps of the newest that are known to be whole, ascending
};

}  // namespace tangram
