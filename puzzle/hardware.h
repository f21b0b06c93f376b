#pragma once
#include <array>
#include <string>
#include <string_view>

#include "puzzle/scenario.h"

namespace tangram {

/// What the time of inference is spent on, each with its own distance from the machine's peak.
enum class Term : uint8_t {
  matmul_compute,     ///< products whose arithmetic takes longer than their bytes
  matmul_memory,      ///< products whose bytes take longer: few tokens at a time
  attention_prefill,  ///< attention over the context, many new tokens of a sequence
  attention_decode,   ///< one new token of a sequence: the cache is read
  elementwise,        ///< norms, rotation, activation, residual addition, embedding, sampling
  all_reduce,         ///< bytes over the links between devices
  overhead,           ///< starts of kernels and collectives, and the host's work for each pass over the model
};
inline constexpr size_t kTermCount = 7;
constexpr std::string_view kTermNames[kTermCount] = {"matmul_compute",   "matmul_memory", "attention_prefill",
                                                     "attention_decode", "elementwise",   "all_reduce",
                                                     "overhead"};

/// How near operations come to a peak rate, and how well that is known.
struct Efficiency {
  double value = 1;  ///< part of the peak; of Term::overhead: 1, the seconds are stated themselves
  double error = 0;  ///< relative error bar of it: one standard deviation of its logarithm
};

/// A machine that times are modelled for, one device of it. Rates are peaks, as data sheets state them.
struct Hardware {
  std::string name;
  double memory_bytes = 0;           ///< of one device, that a process can use
  double reserved_bytes = 0;         ///< of it, what context, libraries and fragments take
  double memory_bandwidth = 0;       ///< bytes a second
  std::array<double, 3> flops = {};  ///< a second, of dense products: in f32, in bf16 or f16, in fp8; 0: not at all
  double link_bandwidth = 0;         ///< bytes a second that a device sends to the others; 0: it stands alone
  double link_seconds = 0;           ///< of a collective without bytes
  double launch_seconds = 0;         ///< of a kernel without work
  double step_seconds = 0;           ///< of the host's, between two passes over the model
  int64_t prefill_tokens = 8192;     ///< tokens that a prefill takes at a time, whole prompts
  std::array<Efficiency, kTermCount> efficiency = {};
  double residual = 0;  ///< relative error bar of a time beyond those of the efficiencies: what the model leaves out

  Efficiency& of(Term term) { return efficiency[static_cast<size_t>(term)]; }
  const Efficiency& of(Term term) const { return efficiency[static_cast<size_t>(term)]; }
  /// Peak rate of products. Throws Error (bad_input) if the machine has no such arithmetic.
  double peak(Precision precision) const;
};

/// Throws Error (bad_input) naming the hardware unless it can run the scenario: has its arithmetic, and links where
/// there are several devices.
void check_hardware(const Hardware& hardware, const Scenario& scenario);

}  // namespace tangram
