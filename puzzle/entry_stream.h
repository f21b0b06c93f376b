#pragma once
#include <future>

#include "blocks/library.h"

namespace tangram {

/// Brings the entries of a library, one after the other and round after round, to where the context computes. On a GPU
/// the next one is read from disk and moved on a stream of its own while the caller works with the last; two are in
/// memory. On the CPU entries are mapped, which takes no time.
class EntryStream {
 public:
  /// `teacher` is on the CPU, gives what an entry shares with it, and stays.
  EntryStream(std::filesystem::path library, std::vector<Replacement> replacements, const Model& teacher, Context& ctx);

  /// The next entry, until the next call; the device must be done with the one before. Throws Error as load_entry does.
  const LibraryEntry& next();

  /// Bytes of the GPU that the two take.
  static int64_t device_bytes(std::span<const Replacement> replacements, const ModelConfig& config, DType dtype);

 private:
  void load_ahead();

  const std::filesystem::path library_;
  const std::vector<Replacement> replacements_;
  const Model& teacher_;
  Context ctx_;  // of the loading
  std::vector<Arena> slots_;
  LibraryEntry current_;
  size_t started_ = 0;                 // entries whose loading has begun
  std::future<LibraryEntry> loading_;  // the last of them; waited for before what it works with goes
};

}  // namespace tangram
