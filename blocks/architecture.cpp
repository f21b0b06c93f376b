#include "blocks/architecture.h"

namespace tangram {

Architecture teacher_architecture(const ModelConfig& config) {
  const BlockChoice block{teacher_choice(Subblock::attention, config), teacher_choice(Subblock::ffn, config)};
  return Architecture(static_cast<size_t>(config.num_hidden_layers), block);
}

std::string Replacement::layers() const {
  return layer_count == 1 ? fmt::format("{}", first_layer) : fmt::format("{}-{}", first_layer, last_layer());
}

std::string Replacement::name() const {
  CHECK(attention || ffn, "a replacement of layer {} replaces nothing", first_layer);
  if (attention && ffn) return fmt::format("block-{}-{}", attention->name(), ffn->name());
  return attention ? "attention-" + attention->name() : "ffn-" + ffn->name();
}

}  // namespace tangram
