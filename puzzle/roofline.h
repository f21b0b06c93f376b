#pragma once
#include <array>

#include "puzzle/costs.h"
#include "puzzle/hardware.h"

namespace tangram {

/// Seconds by what they are spent on. They add up to the time, so seconds[t] / total is how many per cent the time
/// falls when the efficiency of t rises by one.
struct TimeParts {
  std::array<double, kTermCount> seconds = {};

  double& of(Term term) { return seconds[static_cast<size_t>(term)]; }
  double total() const;
  TimeParts& operator+=(const TimeParts& other);
  TimeParts times(double factor) const;
};

/// What a part of a model takes in one scenario, for all its sequences together, on all its devices at once.
struct ModelledTime {
  TimeParts prefill, decode;

  ModelledTime& operator+=(const ModelledTime& other);
};

/// The roofline model (Williams et al. 2009, doi:10.1145/1498765.1498785) of one subblock: each operation takes
///
///   max(operations / (peak * efficiency), bytes / (bandwidth * efficiency)) + overhead
///
/// Prefill works on whole prompts, up to hardware.prefill_tokens at a time; decode on one token of every sequence,
/// whose attention reads its cache, at the average length from first to last output token. A product reads its matrix
/// and its input and writes its output; matrices with a common input are one product. With several devices, each has
/// its part of every matrix, and the outputs are added up over the links by a ring: 2 (n - 1) / n of their bytes a
/// device.
ModelledTime model_subblock(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                            const Hardware& hardware);

/// The same for what is outside the blocks: embedding of every token, final norm, head and choice of the next token of
/// every sequence, and what the host does between passes.
ModelledTime model_outside(const ModelConfig& config, const Scenario& scenario, const Hardware& hardware);

ModelledTime model_whole(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                         const Hardware& hardware);

/// Relative error bar of a modelled time: of the efficiencies by their shares, which are independent, and the model's.
double relative_error(const TimeParts& time, const Hardware& hardware);

/// Bytes of one device that a whole model takes in a scenario.
double model_memory(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                    const Hardware& hardware);

/// How a whole model serves a load.
struct Serving {
  Scenario scenario;        ///< with the number of sequences that serves best
  double throughput = 0;    ///< output tokens a second and device; 0: it does not fit
  double error = 0;         ///< relative
  double memory_bytes = 0;  ///< of one device
  ModelledTime time;
};

/// A load as its scenario says, whether it fits or not. Throughput counts the prefills too: with sequences that come
/// and go, as many prompts are prefilled as end.
Serving serve(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
              const Hardware& hardware);

/// The best throughput of a model on `scenario.tensor_parallel` devices: with as many sequences as memory takes, up to
/// scenario.concurrency, where more is faster. A sequence takes the memory of all its tokens.
Serving best_serving(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                     const Hardware& hardware);

}  // namespace tangram
