#pragma once
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>

#include "kernels/context.h"

namespace tangram {

/// The residual stream of all tokens of a run at the boundary before one layer: what a boundary file holds.
struct BoundaryShape {
  int64_t batches, batch_tokens, hidden_size;
  DType dtype;

  int64_t batch_bytes() const { return batch_tokens * hidden_size * size_of(dtype); }
  int64_t bytes() const { return batches * batch_bytes(); }
};

/// File of the boundary before `layer`: a safetensors file with one tensor, `residual` (tokens, H), its micro-batches
/// one after the other. While it is written it is called `<layer>.partial`.
std::filesystem::path boundary_path(const std::filesystem::path& folder, int64_t layer);

/// Seconds of reading and writing boundaries, and how many of them the computation had to wait for.
struct IoTimes {
  double read_seconds = 0, write_seconds = 0, waited_seconds = 0;
  int64_t bytes_read = 0, bytes_written = 0;

  /// Part of the traffic's time that passed beside the computation.
  double hidden_fraction() const;
  IoTimes& operator+=(const IoTimes& other);
};

/// Carries the micro-batches of a run in order through one layer: from the file of one boundary to memory of the
/// context's device, where the caller changes them, and on to the file of the next boundary. While batch i is with the
/// caller, a thread reads batch i + 1 and another writes batch i - 1; three batches are in memory.
///
/// Memory and time are bounded, too, in what the system keeps: pages go to the disk as they are written and leave the
/// cache as soon as they are there.
class BoundaryStream {
 public:
  /// From micro-batch `first` on. `from` is a finished file; empty: the caller fills the batches. `to` becomes
  /// `<to>` when it is finished; empty: nothing is written. A partial file is gone on with if `first` > 0, of which the
  /// batches before `first` must have been flushed. Throws Error (bad_input) if `from` is of another shape, and Error
  /// if the disk has no room for `to`.
  BoundaryStream(const std::filesystem::path& from, const std::filesystem::path& to, const BoundaryShape& shape,
                 int64_t first, Context& ctx);
  /// Drops what was not flushed.
  ~BoundaryStream();
  BoundaryStream(const BoundaryStream&) = delete;
  BoundaryStream& operator=(const BoundaryStream&) = delete;

  /// The next micro-batch (N, H), to be changed in place; waits until it has been read. One is with the caller at most.
  /// Throws Error if reading or writing has failed.
  Tensor take();
  /// Gives it back to be written; the device must be done with it.
  void give_back();
  /// Waits until all that was given back is on disk.
  void flush();
  /// After the last batch: the written file appears under its name.
  void finish();

  IoTimes times() const;

  /// Bytes of the batches in memory, on the device, and of the host's for their way to it.
  static int64_t device_bytes(const BoundaryShape& shape);

 private:
  static constexpr int64_t kSlots = 3;
  class File;

  void read_ahead();
  void write_behind();
  template <class F>
  void run_guarded(F work);
  template <class Ready>
  void wait_for(std::unique_lock<std::mutex>& lock, Ready ready);
  void stop();

  const BoundaryShape shape_;
  const Device device_;
  const int threads_;
  const std::filesystem::path to_;
  std::unique_ptr<File> in_, out_;
  Arena memory_;
  Tensor slots_[kSlots];

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t read_, taken_, given_, written_;  // micro-batches so far; read_ >= taken_ >= given_ >= written_
  bool stopping_ = false;
  std::exception_ptr failure_;
  IoTimes times_;
  std::thread reader_, writer_;
};

}  // namespace tangram
