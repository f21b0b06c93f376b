#pragma once
#include <functional>
#include <span>
#include <vector>

#include "blocks/model.h"
#include "kernels/sampling.h"

namespace tangram {

/// A KV cache of one page a sequence, with memory of its own.
struct ContiguousCache {
  Arena memory;
  KvCache cache;
};
ContiguousCache make_cache(const Model& model, int64_t sequences, int64_t tokens);

/// Prompt tokens that are worked on at a time: enough for the matrix products to run at their full speed.
inline constexpr int64_t kPrefillTokens = 512;

/// Gets the hidden states (S * count, H), before the head, of tokens `first` to `first + count` of every sequence: row
/// s * count + i is token first + i of sequence s. They are overwritten afterwards.
using PrefillSink = std::function<void(int64_t first, int64_t count, Tensor hidden)>;

/// Fills an empty cache with prompts of equal length, in parts of at most `tokens_at_once` tokens (but one of each
/// sequence at least), so that memory does not grow with their length.
///
///   tokens  (S, T)  i32    S sequences, as many as the cache has
void prefill(const Model& model, Tensor tokens, KvCache& cache, int64_t tokens_at_once, const PrefillSink& sink,
             Context& ctx);

struct GenerateOptions {
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  uint64_t seed = 0;
  std::vector<int32_t> stop;  ///< ids that end the text
};

/// How generation went. Prefill ends with the first token drawn; every further one takes a decode step.
struct GenerateResult {
  int64_t tokens = 0;    ///< given to on_token
  bool stopped = false;  ///< by an id of `stop`, which is not given out
  int64_t decode_steps = 0;
  double prefill_seconds = 0, decode_seconds = 0;
};

/// Continues a prompt. Ends after max_tokens, before an id of `stop`, and where the model has no more positions. A pure
/// function of model, prompt and options, for one number of threads. Throws Error (bad_input) if the prompt is empty,
/// has an id that is not in the vocabulary, or leaves no position.
GenerateResult generate(const Model& model, std::span<const int32_t> prompt, const GenerateOptions& options,
                        const std::function<void(int32_t)>& on_token, Context& ctx);

}  // namespace tangram
