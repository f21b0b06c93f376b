#pragma once
#include "distill/dataset.h"
#include "kernels/random.h"
#include "tests/small_model.h"

namespace tangram {

/// Random tokens in segments of 16, 10 and 6; every token but the last of a segment has the next one as its target.
inline Batch small_batch(uint64_t stream) {
  Batch batch;
  for (int32_t length : {16, 10, 6}) {
    batch.lengths.push_back(length);
    for (int32_t i = 0; i < length; ++i) {
      batch.tokens.push_back(int32_t(random_below(23, 5, stream, batch.tokens.size())));
      batch.targets.push_back(-1);
      if (i > 0) batch.targets[batch.tokens.size() - 2] = batch.tokens.back();
    }
  }
  return batch;
}
inline constexpr int64_t kSmallBatchTokens = 32;

}  // namespace tangram
