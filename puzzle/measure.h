#pragma once
#include <functional>
#include <vector>

#include "blocks/model.h"
#include "puzzle/scenario.h"

namespace tangram {

/// Seconds that a part of a model takes in one scenario, for all its sequences together.
struct Runtime {
  double prefill_seconds = 0;  ///< all input tokens of all sequences
  double decode_seconds = 0;   ///< all output tokens of all sequences, one step after the other
};

/// How parts are timed. Sequences of more tokens than a prefill takes at a time are measured in part and scaled.
struct MeasureOptions {
  int64_t prefill_tokens_at_most = 4096;
  int decode_points = 3;           ///< context lengths at which a step is timed, from first to last output token
  int repeats = 5;                 ///< timings at least, of which the fastest counts: it was disturbed least
  double seconds_at_least = 0.02;  ///< and further ones for so long
};

/// Times one subblock with the model's own inference path (norm, variant, residual addition) on weights of random
/// values: prefill of `input_tokens` for `concurrency` sequences, and decode steps of all sequences at a few context
/// lengths, integrated over the output tokens by the trapezoid rule.
Runtime measure_subblock(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                         const MeasureOptions& options, Context& ctx);

/// The same for what is outside the blocks: embedding, final norm and head (of the last token of a prompt only).
Runtime measure_outside(const ModelConfig& config, const Scenario& scenario, const MeasureOptions& options,
                        Context& ctx);

/// A whole model's times, and the memory that it took from the arenas of the engine that ran it.
struct WholeRun {
  Runtime runtime;
  int64_t weight_bytes = 0, kv_cache_bytes = 0;
  int64_t workspace_bytes = 0;  ///< at most at a time, of scratch memory; only in a context that has done nothing else

  int64_t memory_bytes() const { return weight_bytes + kv_cache_bytes + workspace_bytes; }
};

/// The same for a whole model of random weights, its blocks one after the other in one pass: what sums of parts are
/// compared with.
WholeRun measure_whole(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                       const MeasureOptions& options, Context& ctx);

/// The workspace of a model whose largest subblock is this one, on the context's device and threads: by measure_whole
/// in a context that only plans. So it is what a measurement takes, but for what oneDNN packs for a product on a CPU.
double planned_workspace(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                         const MeasureOptions& options, const Context& ctx);

/// Memory of the context's device, all of it.
int64_t memory_bytes(const Context& ctx);

}  // namespace tangram
