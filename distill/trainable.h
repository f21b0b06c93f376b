#pragma once
#include <string>
#include <vector>

#include "blocks/model.h"
#include "distill/schedule.h"

namespace tangram {

/// Hyper-parameters of AdamW with decoupled decay and of the clipping before it.
struct OptimiserOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.01;  ///< of matrices; norms are not decayed
  double gradient_clip = 1.0;  ///< largest norm of the gradient of one Trainable; 0: no clipping
};

/// One weight tensor in training: its compute copy, and f32 state of the same shape.
struct TrainableTensor {
  std::string name;
  Tensor weight;                  ///< T    what the forward pass reads
  Tensor master;                  ///< f32  the weight itself where T is f32
  Tensor moment1, moment2, grad;  ///< f32
  bool decay = true;
};

/// Weights that are trained and clipped together: one variant of one layer, or a whole model.
struct Trainable {
  std::string name;
  std::vector<TrainableTensor> tensors;
};

/// Optimiser state for `weight` from `arena` (master only where the weight is not f32); null: another process has it.
/// `grad` is the caller's to set.
TrainableTensor make_trainable(std::string name, Tensor weight, bool decay, Arena* arena);

/// Copies the weights to their masters and clears the moments: the start of training.
void start_training(const Trainable& trainable, Context& ctx);

/// AdamW step number `step` (from 1) of all of them in one go, from their gradients, each clipped by its own norm.
/// Returns the norms before clipping. If one is not finite nothing changes.
std::vector<double> optimiser_step(std::span<const Trainable> trainables, const OptimiserOptions& options,
                                   double learning_rate, int64_t step, Context& ctx);

/// The second half of it: AdamW with gradients that are multiplied by `grad_scales`, one a Trainable, first.
void update_weights(std::span<const Trainable> trainables, std::span<const double> grad_scales,
                    const OptimiserOptions& options, double learning_rate, int64_t step, Context& ctx);

/// Masters and moments under `<trainable>/<tensor>/<master, moment1, moment2>`: what a checkpoint reads and writes.
void append_state(std::vector<NamedTensor>& tensors, const Trainable& trainable);
/// Computes the weights from masters that a checkpoint has filled.
void restore_weights(const Trainable& trainable, Context& ctx);

}  // namespace tangram
