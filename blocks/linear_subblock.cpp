#include "blocks/linear_subblock.h"

#include "kernels/elementwise.h"

namespace tangram {

std::vector<ParamSpec> linear_params(const char* name, const ModelConfig& config) {
  // Not divided over tensor-parallel ranks by rows, since its output has to be a partial sum: by columns of the input.
  return {{name, config.hidden_size, config.hidden_size, SplitAxis::cols, true}};
}

Cost linear_cost(const ModelConfig& config) {
  return {.flops_per_token = 2.0 * double(config.hidden_size) * double(config.hidden_size),
          .kv_elements = 0,
          .kv_tokens_at_most = 0};
}

// The shared product with the input is the whole subblock, so only the columns are handed over.
void linear_forward(Tensor y, Tensor proj, Context& ctx) { copy(y, proj, ctx); }
void linear_backward(Tensor dproj, Tensor dy, Context& ctx) { copy(dproj, dy, ctx); }

// Not accumulated by the product, which reads all of x for each of its results: y may be x.
void linear_infer(Tensor y, const Normed& x, Params params, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  const Tensor product = ctx.scratch.tensor(y.rows, y.cols, y.dtype);
  norm_matmul(product, x, params, ctx);
  add(y, y, product, ctx);
}

}  // namespace tangram
