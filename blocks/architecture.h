#pragma once
#include <optional>
#include <string>
#include <vector>

#include "blocks/variant.h"

namespace tangram {

/// What one block of a model is made of.
struct BlockChoice {
  Choice attention, ffn;

  const Choice& of(Subblock s) const { return s == Subblock::attention ? attention : ffn; }
  Choice& of(Subblock s) { return s == Subblock::attention ? attention : ffn; }
  bool operator==(const BlockChoice&) const = default;
};

/// The blocks of a model, in order.
using Architecture = std::vector<BlockChoice>;

/// The teacher's: every block with its own attention and FFN.
Architecture teacher_architecture(const ModelConfig& config);

/// What is trained, scored, measured and chosen: a student's part that stands for `layer_count` teacher layers from
/// `first_layer` on. A subblock that is not named stays the teacher's. One named subblock is a plain variant; two are a
/// pair that is trained and scored together; and a pair for several layers is a span: one block that does what they do
/// together, from the first one's input to the last one's output.
struct Replacement {
  int64_t first_layer = 0, layer_count = 1;
  std::optional<Choice> attention, ffn;

  std::optional<Choice>& of(Subblock s) { return s == Subblock::attention ? attention : ffn; }
  const std::optional<Choice>& of(Subblock s) const { return s == Subblock::attention ? attention : ffn; }
  int64_t last_layer() const { return first_layer + layer_count - 1; }
  /// The layers it stands for: `3`, `3-4`.
  std::string layers() const;
  /// Name of its file in the library, without folder and ending: `attention-gqa_4`, `ffn-linear`,
  /// `block-no_op-ffn_14336`.
  std::string name() const;
  bool operator==(const Replacement&) const = default;
};

}  // namespace tangram
