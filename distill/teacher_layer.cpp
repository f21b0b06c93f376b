#include "distill/teacher_layer.h"

#include "kernels/elementwise.h"

namespace tangram {

TeacherLayer make_teacher_layer(const ModelConfig& config, int64_t tokens, DType dtype, Arena& arena) {
  TeacherLayer layer;
  layer.attention = make_activations(teacher_choice(Subblock::attention, config), config, tokens, dtype, arena);
  layer.ffn = make_activations(teacher_choice(Subblock::ffn, config), config, tokens, dtype, arena);
  for (Tensor* t : {&layer.attention_output, &layer.ffn_output, &layer.input, &layer.middle, &layer.output})
    *t = arena.tensor(tokens, config.hidden_size, dtype);
  return layer;
}

void teacher_layer_forward(TeacherLayer& layer, const BlockWeights& block, const ModelConfig& config,
                           const Sequences& sequences, Context& ctx) {
  subblock_forward(layer.attention_output, layer.attention, layer.input, block.attention, config, sequences, ctx);
  add(layer.middle, layer.input, layer.attention_output, ctx);
  subblock_forward(layer.ffn_output, layer.ffn, layer.middle, block.ffn, config, sequences, ctx);
  add(layer.output, layer.middle, layer.ffn_output, ctx);
}

}  // namespace tangram
