// Attention left out: neither parameters nor norm; the residual stream passes by (Bercovich et al. 2024,
// arXiv:2411.19146).

#include "blocks/variant.h"

namespace tangram {

extern const Variant attention_no_op{
    .name = "no_op",
    .subblock = Subblock::attention,
    .sized = false,
    .no_op = true,
    .check_size = [](const ModelConfig&, int64_t) {},
    .params = [](VariantShape) { return std::vector<ParamSpec>{}; },
    .saved = [](VariantShape) { return std::vector<SavedSpec>{}; },
    .cost = [](VariantShape) { return Cost{}; },
    .init_from_teacher = [](std::span<const Weight>, std::span<const Weight>, VariantShape, const InitInputs&,
                            Context&) {},
    .forward = nullptr,
    .backward = nullptr,
    .infer = nullptr,
};

}  // namespace tangram
