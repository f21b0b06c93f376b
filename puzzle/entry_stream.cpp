#include "puzzle/entry_stream.h"

#include "kernels/transfer.h"

namespace tangram {

static constexpr int64_t kSlots = 2;

static int64_t largest_bytes(std::span<const Replacement> replacements, const ModelConfig& config, DType dtype) {
  int64_t most = 0;
  for (const Replacement& r : replacements) most = std::max(most, entry_bytes(r, config, dtype));
  return most;
}

EntryStream::EntryStream(std::filesystem::path library, std::vector<Replacement> replacements, const Model& teacher,
                         Context& ctx)
    : library_(std::move(library)),
      replacements_(std::move(replacements)),
      teacher_(teacher),
      ctx_({.device = ctx.device, .threads = 1, .scratch_bytes = 0}) {
  if (ctx.device == Device::cpu) return;
  const int64_t bytes = largest_bytes(replacements_, teacher.config, teacher.dtype);
  for (int64_t i = 0; i < kSlots; ++i) slots_.emplace_back(bytes, ctx.device);
}

int64_t EntryStream::device_bytes(std::span<const Replacement> replacements, const ModelConfig& config, DType dtype) {
  return kSlots * largest_bytes(replacements, config, dtype);
}

void EntryStream::load_ahead() {
  const size_t number = started_++;
  const auto load = [this, number] {
    LibraryEntry entry = load_entry(library_, replacements_[number % replacements_.size()], teacher_);
    if (slots_.empty()) return entry;
    Arena& slot = slots_[number % kSlots];
    slot.rewind(0);
    LibraryEntry moved = move_entry(entry, teacher_.config, slot, ctx_);
    synchronize(ctx_);
    return moved;
  };
  loading_ = std::async(slots_.empty() ? std::launch::deferred : std::launch::async, load);
}

const LibraryEntry& EntryStream::next() {
  if (started_ == 0) load_ahead();
  current_ = loading_.get();
  load_ahead();
  return current_;
}

}  // namespace tangram
