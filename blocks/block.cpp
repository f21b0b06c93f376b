#include "blocks/block.h"

#include "kernels/elementwise.h"
#include "kernels/rmsnorm.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

VariantShape shape_of(const SubblockWeights& weights, const ModelConfig& config) {
  return {config, weights.choice.size};
}

// Calls f(weight, first column, columns) for every run of input parameters that is one matrix in memory.
template <class F>
void for_each_input_matrix(Params params, std::span<const ParamSpec> specs, F f) {
  size_t inputs = 0;
  while (inputs < params.size() && specs[inputs].input) ++inputs;
  int64_t column = 0;
  for (Params left = params.first(inputs); !left.empty();) {
    const Weight matrix = stack_adjacent(left);
    f(matrix, column, matrix.values.rows);
    column += matrix.values.rows;
  }
}

}  // namespace

SubblockWeights make_weights(const Choice& choice, const ModelConfig& config, DType dtype, Arena& arena) {
  SubblockWeights weights{.choice = choice, .norm = {}, .params = {}};
  if (choice.variant->no_op) return weights;
  weights.norm = arena.tensor(1, config.hidden_size, dtype);
  for (const ParamSpec& p : choice.variant->params({config, choice.size}))
    weights.params.emplace_back(arena.tensor(p.rows, p.cols, dtype));
  return weights;
}

SubblockGrads make_grads(const Choice& choice, const ModelConfig& config, Arena& arena) {
  SubblockGrads grads;
  if (choice.variant->no_op) return grads;
  grads.norm = arena.tensor(1, config.hidden_size, DType::f32);
  for (const ParamSpec& p : choice.variant->params({config, choice.size}))
    grads.params.push_back(arena.tensor(p.rows, p.cols, DType::f32));
  return grads;
}

SubblockActivations make_activations(const Choice& choice, const ModelConfig& config, int64_t tokens, DType dtype,
                                     Arena& arena) {
  SubblockActivations activations;
  if (choice.variant->no_op) return activations;
  activations.rstd = arena.tensor(1, tokens, DType::f32);
  activations.x = arena.tensor(tokens, config.hidden_size, dtype);
  activations.proj = arena.tensor(tokens, projection_size(choice, config), dtype);
  for (const SavedSpec& s : choice.variant->saved({config, choice.size}))
    activations.saved.push_back(arena.tensor(tokens, s.cols, s.f32 ? DType::f32 : dtype));
  return activations;
}

SubblockWeights copy_weights(const SubblockWeights& weights, const ModelConfig& config, Arena& memory, Context& ctx) {
  if (weights.choice.variant->no_op) return weights;
  const SubblockWeights copied = make_weights(weights.choice, config, weights.norm.dtype, memory);
  transfer(copied.norm, weights.norm, ctx);
  for (size_t i = 0; i < weights.params.size(); ++i) transfer(copied.params[i].values, weights.params[i].values, ctx);
  return copied;
}

void input_projection(Tensor proj, Tensor x, Params params, std::span<const ParamSpec> specs, Context& ctx) {
  for_each_input_matrix(params, specs, [&](const Weight& w, int64_t column, int64_t columns) {
    matmul_forward(proj.col_range(column, columns), x, w, ctx);
  });
}

void subblock_forward(Tensor y, SubblockActivations& saved, Tensor residual, const SubblockWeights& weights,
                      const ModelConfig& config, const Sequences& sequences, Context& ctx) {
  const Variant& variant = *weights.choice.variant;
  if (variant.no_op) return fill_zero(y, ctx);
  const VariantShape shape = shape_of(weights, config);
  rmsnorm_forward(saved.x, saved.rstd, residual, weights.norm, static_cast<float>(config.rms_norm_eps), ctx);
  input_projection(saved.proj, saved.x, weights.params, variant.params(shape), ctx);
  variant.forward(y, saved.proj, saved.saved, weights.params, shape, sequences, ctx);
  ctx.tensor_parallel->all_reduce_sum(y);
}

void subblock_infer(Tensor residual, const SubblockWeights& weights, const ModelConfig& config, const LayerCache& cache,
                    const Sequences& sequences, Context& ctx) {
  const Variant& variant = *weights.choice.variant;
  if (variant.no_op) return;
  const Normed x{residual, weights.norm, static_cast<float>(config.rms_norm_eps)};
  const VariantShape shape = shape_of(weights, config);
  if (ctx.tensor_parallel->size() == 1) return variant.infer(residual, x, weights.params, shape, cache, sequences, ctx);
  ArenaScope scope(ctx.scratch);
  const Tensor part = ctx.scratch.tensor(residual.rows, residual.cols, residual.dtype);
  fill_zero(part, ctx);
  variant.infer(part, x, weights.params, shape, cache, sequences, ctx);
  ctx.tensor_parallel->all_reduce_sum(part);
  add(residual, residual, part, ctx);
}

void subblock_backward(Tensor dresidual, SubblockGrads& grads, Tensor dy, Tensor residual,
                       const SubblockActivations& saved, const SubblockWeights& weights, const ModelConfig& config,
                       const Sequences& sequences, Context& ctx) {
  const Variant& variant = *weights.choice.variant;
  if (variant.no_op) return;
  const VariantShape shape = shape_of(weights, config);
  const std::vector<ParamSpec> specs = variant.params(shape);

  ArenaScope scope(ctx.scratch);
  const Tensor dproj = ctx.scratch.tensor(saved.proj.rows, saved.proj.cols, saved.proj.dtype);
  variant.backward(dproj, grads.params, dy, saved.proj, saved.saved, weights.params, shape, sequences, ctx);

  int64_t column = 0;
  for (size_t i = 0; i < specs.size() && specs[i].input; column += specs[i].rows, ++i)
    matmul_backward_weight(grads.params[i], dproj.col_range(column, specs[i].rows), saved.x, ctx);

  if (!dresidual.data && !grads.norm.data) return;
  const Tensor dx = ctx.scratch.tensor(saved.x.rows, saved.x.cols, saved.x.dtype);
  for_each_input_matrix(weights.params, specs, [&](const Weight& w, int64_t first, int64_t columns) {
    matmul_backward_input(dx, dproj.col_range(first, columns), w, ctx, /*accumulate=*/first > 0);
  });
  ctx.tensor_parallel->all_reduce_sum(dx);
  rmsnorm_backward(dresidual, grads.norm, dx, residual, weights.norm, saved.rstd, ctx, /*accumulate=*/true);
}

}  // namespace tangram
