#pragma once
#include "blocks/model.h"

namespace tangram {

/// Sequences on the CPU, in memory of their own.
class OwnSequences {
 public:
  OwnSequences(const ModelConfig& config, std::span<const int32_t> lengths, std::span<const int32_t> past = {})
      : batch_(config, lengths, past, memory_, ctx_) {}

  const Sequences& view() const { return batch_.view(); }
  int64_t tokens() const { return batch_.tokens(); }

 private:
  Context ctx_{Context::Options{.threads = 1, .scratch_bytes = 1 << 20}};
  Arena memory_{16 << 20};
  SequenceBatch batch_;
};

}  // namespace tangram
