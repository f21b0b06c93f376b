#pragma once
#include <optional>
#include <string>
#include <vector>

#include "puzzle/roofline.h"

namespace tangram {

/// A student that was searched for on modelled costs, and how it serves.
struct PlannedStudent {
  Serving serving;
  Architecture architecture;
  double parameters = 0;
  int64_t kv_heads = 0;  ///< of all layers
  bool proven = false;   ///< the best of the table it was searched in
};

/// The best student by scores of example_scores that serves a scenario at least at `throughput` a device, on any number
/// of devices up to scenario.tensor_parallel and, in steps of a third, sequences up to scenario.concurrency, that fits.
/// Nothing if there is none.
std::optional<PlannedStudent> plan_student(const ModelConfig& teacher, const Scenario& scenario,
                                           const Hardware& hardware, double throughput);

/// What serves a published load: the teacher on one device, at its own best tensor parallelism, and a student of twice
/// that throughput a device, on no more devices.
struct PlannedServing {
  int64_t input_tokens = 0, output_tokens = 0;
  Serving alone, best;
  std::optional<PlannedStudent> student;
};

/// The loads of the paper's throughput table, in 8 bits where the hardware has them, else in 16.
std::vector<PlannedServing> plan_serving(const ModelConfig& teacher, const Hardware& hardware, bool with_students);

/// For people, and as JSON.
std::string serving_text(const std::vector<PlannedServing>& plan, const Hardware& hardware);
std::string serving_json(const std::vector<PlannedServing>& plan, const Hardware& hardware);

}  // namespace tangram
