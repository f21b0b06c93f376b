// Grouped-query attention with n key/value heads (Ainslie et al. 2023, arXiv:2305.13245). At the teacher's n it is the
// teacher's own attention.

#include "blocks/softmax_attention.h"

namespace tangram {

static AttentionShape attention_shape(VariantShape s) {
  return {.heads = s.config.num_attention_heads, .kv_heads = s.size, .head_dim = s.config.head_dim};
}

static void check_size(const ModelConfig& config, int64_t size) {
  if (size >= 1 && size <= config.num_key_value_heads && config.num_key_value_heads % size == 0) return;
  throw bad_input("gqa_{}: the key/value heads must divide the teacher's {}", size, config.num_key_value_heads);
}

extern const Variant attention_gqa{
    .name = "gqa",
    .subblock = Subblock::attention,
    .sized = true,
    .no_op = false,
    .check_size = check_size,
    .params = [](VariantShape s) { return softmax_attention_params(attention_shape(s), s.config); },
    .saved = [](VariantShape s) { return softmax_attention_saved(attention_shape(s)); },
    .cost = [](VariantShape s) { return softmax_attention_cost(attention_shape(s), s.config); },
    .init_from_teacher = [](std::span<const Weight> child, std::span<const Weight> teacher, VariantShape s,
                            const InitInputs& inputs,
                            Context&) { softmax_attention_init(child, teacher, attention_shape(s), s.config, inputs); },
    .forward =
        [](Tensor y, Tensor proj, Saved saved, Params params, VariantShape s, const Sequences& sequences,
           Context& ctx) { softmax_attention_forward(y, proj, saved, params, attention_shape(s), sequences, ctx); },
    .backward =
        [](Tensor dproj, Grads grads, Tensor dy, Tensor proj, Saved saved, Params params, VariantShape s,
           const Sequences& sequences, Context& ctx) {
          softmax_attention_backward(dproj, grads, dy, proj, saved, params, attention_shape(s), sequences, ctx);
        },
    .infer = [](Tensor y, const Normed& x, Params params, VariantShape s, const LayerCache& cache,
                const Sequences& sequences,
                Context& ctx) { softmax_attention_infer(y, x, params, attention_shape(s), cache, sequences, ctx); },
};

}  // namespace tangram
