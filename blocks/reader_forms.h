#pragma once
#include <string>
#include <vector>

#include "blocks/model.h"

namespace tangram {

/// An `ffn_mult` can say no widths of FFNs but its multiples.
inline constexpr int64_t kFfnMultStep = 256;

/// Which irregular blocks the reader of a format gets right. The others are written in a form that computes exactly the
/// same.
struct ReaderForms {
  bool linear_attention = true;  ///< else the matrix becomes the linear FFN of a block of its own
  bool empty_blocks = true;      ///< with neither attention nor FFN; else they are left out
  bool attention_alone = true;   ///< without an FFN; else the FFN of the next block joins it, or an idle one
  bool ffn_alone_first = true;   ///< a first block without attention; else it gets an idle one
  /// Idle attention is a `linear` one, or one with the fewest KV heads that the model has; all its weights are 0.
  bool idle_attention_is_linear = false;
  int64_t idle_width = 256;    ///< of an idle FFN, whose weights are 0
  int64_t width_multiple = 1;  ///< of the FFN's width; zero channels fill up others
};

/// Where a subblock of the new form comes from.
struct FormSource {
  Choice choice;
  int64_t layer = -1;                       ///< of the model; -1: idle
  Subblock subblock = Subblock::attention;  ///< that gives the weights
};

struct FormBlock {
  FormSource attention, ffn;
};

/// One thing that is written differently.
struct FormChange {
  int64_t layer;  ///< of the model
  std::string text;
};

/// A model's blocks in the forms that a reader gets right: x + f(x) for the same f in the same order.
struct FormPlan {
  ModelConfig config;  ///< with as many layers as the new form has, and FFNs as wide
  std::vector<FormBlock> blocks;
  std::vector<FormChange> changes;

  Architecture architecture() const;
};

FormPlan plan_forms(const Architecture& architecture, const ModelConfig& config, const ReaderForms& reader);

/// The weights in those forms. What is not changed is shared with `model`; the rest lies in memory of its own.
Model apply_forms(const Model& model, const FormPlan& plan);

}  // namespace tangram
