#include "distill/trainable.h"

#include <cmath>

#include "kernels/adamw.h"
#include "kernels/clip.h"
#include "kernels/elementwise.h"

namespace tangram {

TrainableTensor make_trainable(std::string name, Tensor weight, bool decay, Arena* arena) {
  const auto state = [&] { return arena->tensor(weight.rows, weight.cols, DType::f32); };
  TrainableTensor t{.name = std::move(name),
                    .weight = weight,
                    .master = weight,
                    .moment1 = {},
                    .moment2 = {},
                    .grad = {},
                    .decay = decay};
  if (!arena) return t;
  if (weight.dtype != DType::f32) t.master = state();
  t.moment1 = state();
  t.moment2 = state();
  return t;
}

void start_training(const Trainable& trainable, Context& ctx) {
  for (const TrainableTensor& t : trainable.tensors) {
    if (t.master.data != t.weight.data) copy(t.master, t.weight, ctx);
    fill_zero(t.moment1, ctx);
    fill_zero(t.moment2, ctx);
  }
}

std::vector<double> optimiser_step(std::span<const Trainable> trainables, const OptimiserOptions& options,
                                   double learning_rate, int64_t step, Context& ctx) {
  std::vector<std::vector<Tensor>> grads(trainables.size());
  for (size_t i = 0; i < trainables.size(); ++i)
    for (const TrainableTensor& t : trainables[i].tensors) grads[i].push_back(t.grad);
  const std::vector<double> norms = gradient_norms(grads, ctx);
  for (const double norm : norms)
    if (!std::isfinite(norm)) return norms;
  std::vector<double> scales;
  for (const double norm : norms)
    scales.push_back(options.gradient_clip > 0 ? clip_factor(norm, options.gradient_clip) : 1);
  update_weights(trainables, scales, options, learning_rate, step, ctx);
  return norms;
}

void update_weights(std::span<const Trainable> trainables, std::span<const double> grad_scales,
                    const OptimiserOptions& options, double learning_rate, int64_t step, Context& ctx) {
  std::vector<AdamWTensor> tensors;
  for (size_t i = 0; i < trainables.size(); ++i)
    for (const TrainableTensor& t : trainables[i].tensors)
      tensors.push_back({.master = t.master,
                         .moment1 = t.moment1,
                         .moment2 = t.moment2,
                         .grad = t.grad,
                         .copy = t.master.data == t.weight.data ? Tensor{} : t.weight,
                         .weight_decay = t.decay ? options.weight_decay : 0,
                         .grad_scale = grad_scales[i]});
  adamw(tensors,
        {.learning_rate = learning_rate,
         .beta1 = options.beta1,
         .beta2 = options.beta2,
         .epsilon = options.epsilon,
         .step = step},
        ctx);
}

void append_state(std::vector<NamedTensor>& tensors, const Trainable& trainable) {
  for (const TrainableTensor& t : trainable.tensors) {
    const std::string prefix = trainable.name + "/" + t.name + "/";
    tensors.push_back({prefix + "master", t.master});
    tensors.push_back({prefix + "moment1", t.moment1});
    tensors.push_back({prefix + "moment2", t.moment2});
  }
}

void restore_weights(const Trainable& trainable, Context& ctx) {
  for (const TrainableTensor& t : trainable.tensors)
    if (t.master.data != t.weight.data) copy(t.weight, t.master, ctx);
}

}  // namespace tangram
