#pragma once
#include "blocks/block.h"

namespace tangram {

/// One layer of the teacher on one batch, with everything that its students look at: each subblock's normalised input
/// and output, and the residual stream before, between and after the subblocks.
struct TeacherLayer {
  SubblockActivations attention, ffn;   ///< `.x` is the input that all variants of the subblock share
  Tensor attention_output, ffn_output;  ///< (N, H)  without the residual
  Tensor input, middle, output;         ///< (N, H)  residual stream; the caller fills `input`

  const SubblockActivations& activations(Subblock s) const { return s == Subblock::attention ? attention : ffn; }
  Tensor output_of(Subblock s) const { return s == Subblock::attention ? attention_output : ffn_output; }
  Tensor residual_before(Subblock s) const { return s == Subblock::attention ? input : middle; }
};

TeacherLayer make_teacher_layer(const ModelConfig& config, int64_t tokens, DType dtype, Arena& arena);

/// middle = input + attention_output, output = middle + ffn_output.
void teacher_layer_forward(TeacherLayer& layer, const BlockWeights& block, const ModelConfig& config,
                           const Sequences& sequences, Context& ctx);

}  // namespace tangram
