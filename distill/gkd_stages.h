#pragma once
#include "distill/gkd.h"

namespace tangram {

/// Operations on one micro-batch, found by running it without computing.
struct GkdCosts {
  std::vector<double> forward, backward;  ///< of each of the student's blocks
  std::vector<double> teacher;            ///< the forward pass of the teacher's layers that it stands for
  double head = 0;                        ///< both heads' logits, and the gradients of the student's

  /// With nothing computed twice.
  double all() const;
};
/// `options.teacher_layers` are given; `batch` is a typical micro-batch.
GkdCosts gkd_costs(const Architecture& student, const ModelConfig& teacher, DType dtype, const GkdOptions& options,
                   const Batch& batch, Device device);

/// The student's blocks [begin, end), as one stage of the pipeline.
struct GkdStage {
  int64_t begin = 0, end = 0;
  double flops = 0;  ///< of a micro-batch; all stages but the last compute activations twice
};

/// Cuts the blocks into as many consecutive stages as there are `speeds`, operations per second of each, such that the
/// longest time of any is as short as can be. Throws Error (bad_input) if there are more stages than blocks.
std::vector<GkdStage> cut_student(const GkdCosts& costs, std::span<const double> speeds);

}  // namespace tangram
