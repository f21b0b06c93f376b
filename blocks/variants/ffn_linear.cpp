// FFN replaced by one matrix. Starts from w = w_down w_up, the teacher without its gate, or from the least-squares fit
// of the teacher's output.

#include "blocks/initialise.h"
#include "blocks/linear_subblock.h"

namespace tangram {

static void init_from_teacher(std::span<const Weight> child, std::span<const Weight> teacher, VariantShape,
                              const InitInputs& inputs, Context& ctx) {
  if (inputs.method == Init::random) return init_random(child, teacher, inputs.seed);
  if (inputs.method == Init::least_squares) return init_linear_least_squares(child[0].values, *inputs.statistics, ctx);
  init_product(child[0].values, teacher[2].values, teacher[1].values, ctx);
}

extern const Variant ffn_linear{
    .name = "linear",
    .subblock = Subblock::ffn,
    .sized = false,
    .no_op = false,
    .check_size = [](const ModelConfig&, int64_t) {},
    .params = [](VariantShape s) { return linear_params("linear_mlp.weight", s.config); },
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
