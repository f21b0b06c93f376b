// Attention replaced by one matrix: every token attends to itself alone. Starts from w = w_o w_v, or from the
// least-squares fit of the teacher's output.

#include "blocks/initialise.h"
#include "blocks/linear_subblock.h"

namespace tangram {

static void init_from_teacher(std::span<const Weight> child, std::span<const Weight> teacher, VariantShape s,
                              const InitInputs& inputs, Context& ctx) {
  const ModelConfig& config = s.config;
  if (inputs.method == Init::random) return init_random(child, teacher, inputs.seed);
  if (inputs.method == Init::least_squares) return init_linear_least_squares(child[0].values, *inputs.statistics, ctx);

  // The value head of every query head of a group, one below the other: (heads * D, H).
  ArenaScope scope(ctx.scratch);
  const Tensor v = teacher[2].values, o = teacher[3].values;
  const int64_t D = config.head_dim, group = config.num_attention_heads / config.num_key_value_heads;
  const Tensor expanded = ctx.scratch.tensor(o.cols, v.cols, v.dtype);
  for (int64_t h = 0; h < config.num_attention_heads; ++h)
    copy(expanded.row_range(h * D, D), v.row_range(h / group * D, D));
  init_product(child[0].values, o, expanded, ctx);
}

extern const Variant attention_linear{
    .name = "linear",
    .subblock = Subblock::attention,
    .sized = false,
    .no_op = false,
    .check_size = [](const ModelConfig&, int64_t) {},
    .params = [](VariantShape s) { return linear_params("linear_attn.weight", s.config); },
    .saved = [](VariantShape) { return std::vector<SavedSpec>{}; },
    .cost = [](VariantShape s) { return linear_cost(s.config); },
    .init_from_teacher = init_from_teacher,
    .forward = [](Tensor y, Tensor proj, Saved, Params, VariantShape, const Sequences&,
                  Context& ctx) { linear_forward(y, proj, ctx); },
    .backward = [](Tensor dproj, Grads, Tensor dy, Tensor, Saved, Params, VariantShape, const Sequences&,
                   Context& ctx) { linear_backward(dproj, dy, ctx); },
    .infer = [](Tensor y, const Normed& x, Params params, VariantShape, const LayerCache&, const Sequences&,
                Context& ctx) { linear_infer(y, x, params, ctx); },
};

}  // namespace tangram
