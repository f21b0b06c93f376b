#include "blocks/reader_forms.h"

#include <algorithm>

namespace tangram {
namespace {

const Variant& kind(Subblock subblock, std::string_view name) {
  for (const Variant* v : all_variants())
    if (v->subblock == subblock && v->name == name) return *v;
  throw Error(fmt::format("no variant '{}' of the {}", name, name_of(subblock)));
}

bool is_absent(const FormSource& source) { return source.choice.variant->no_op; }

FormSource absent(Subblock subblock) { return {{&kind(subblock, "no_op"), 0}, -1, subblock}; }

class FormPlanner {
 public:
  FormPlanner(const Architecture& architecture, const ModelConfig& config, const ReaderForms& reader)
      : reader_(reader), fewest_heads_(config.num_key_value_heads) {
    plan_.config = config;
    for (size_t i = 0; i < architecture.size(); ++i) add_block(architecture[i], static_cast<int64_t>(i));
    for (const BlockChoice& block : architecture)
      if (block.attention.is("gqa")) fewest_heads_ = std::min(fewest_heads_, block.attention.size);
  }

  FormPlan plan() {
    if (!reader_.empty_blocks) leave_out_empty();
    if (!reader_.attention_alone) give_ffns();
    if (!reader_.ffn_alone_first) give_first_attention();
    for (FormBlock& block : blocks()) pad(block.ffn);
    plan_.config.num_hidden_layers = std::ssize(blocks());
    return std::move(plan_);
  }

 private:
  std::vector<FormBlock>& blocks() { return plan_.blocks; }

  void note(int64_t layer, std::string text) { plan_.changes.push_back({layer, std::move(text)}); }

  void add_block(const BlockChoice& block, int64_t layer) {
    FormBlock form{{block.attention, layer, Subblock::attention}, {block.ffn, layer, Subblock::ffn}};
    if (!reader_.linear_attention && form.attention.choice.is("linear")) {
      const FormSource matrix{{&kind(Subblock::ffn, "linear"), 0}, layer, Subblock::attention};
      blocks().push_back({absent(Subblock::attention), matrix});
      form.attention = absent(Subblock::attention);
      note(layer, "the linear attention is the FFN of a block of its own");
      if (is_absent(form.ffn)) return;
    }
    blocks().push_back(form);
  }

  int64_t layer_of(const FormBlock& block) const { return std::max(block.attention.layer, block.ffn.layer); }

  void leave_out_empty() {
    for (const FormBlock& block : blocks())
      if (is_absent(block.attention) && is_absent(block.ffn)) note(layer_of(block), "empty, and left out");
    std::erase_if(blocks(), [](const FormBlock& b) { return is_absent(b.attention) && is_absent(b.ffn); });
    if (blocks().empty()) {  // a model needs a block
      blocks().push_back({absent(Subblock::attention), idle_ffn()});
      note(0, "an idle FFN, since no block is left");
    }
  }

  void give_ffns() {
    for (size_t i = 0; i < blocks().size(); ++i) {
      FormBlock& block = blocks()[i];
      if (is_absent(block.attention) || !is_absent(block.ffn)) continue;
      const bool joins = i + 1 < blocks().size() && is_absent(blocks()[i + 1].attention);
      if (joins && !is_absent(blocks()[i + 1].ffn)) {
        block.ffn = blocks()[i + 1].ffn;
        blocks().erase(blocks().begin() + static_cast<ptrdiff_t>(i) + 1);
        note(block.attention.layer,
             fmt::format("attention without an FFN, joined with that of layer {}", block.ffn.layer));
      } else {
        block.ffn = idle_ffn();
        note(block.attention.layer, "attention without an FFN, beside an idle one");
      }
    }
  }

  void give_first_attention() {
    FormSource& first = blocks()[0].attention;
    if (!is_absent(first)) return;
    const bool linear = reader_.idle_attention_is_linear;
    first = {
        {&kind(Subblock::attention, linear ? "linear" : "gqa"), linear ? 0 : fewest_heads_}, -1, Subblock::attention};
    note(layer_of(blocks()[0]), "the first block, without attention, beside an idle one");
  }

  FormSource idle_ffn() {
    const int64_t width = round_up(reader_.idle_width, reader_.width_multiple);
    plan_.config.intermediate_size = std::max(plan_.config.intermediate_size, width);
    return {{&kind(Subblock::ffn, "ffn"), width}, -1, Subblock::ffn};
  }

  void pad(FormSource& ffn) {
    if (!ffn.choice.is("ffn") || ffn.choice.size % reader_.width_multiple == 0) return;
    const int64_t width = round_up(ffn.choice.size, reader_.width_multiple);
    note(ffn.layer, fmt::format("the FFN's width is filled up from {} to {}", ffn.choice.size, width));
    ffn.choice.size = width;
    plan_.config.intermediate_size = std::max(plan_.config.intermediate_size, width);
  }

  const ReaderForms& reader_;
  int64_t fewest_heads_;
  FormPlan plan_;
};

const SubblockWeights* weights_of(const Model& model, const FormSource& source) {
  return source.layer < 0 ? nullptr : &model.blocks.at(static_cast<size_t>(source.layer)).of(source.subblock);
}

/// Copies the corner that both have; the rest is 0.
void copy_corner(Tensor to, Tensor from) {
  fill_zero(to);
  const int64_t rows = std::min(to.rows, from.rows), cols = std::min(to.cols, from.cols);
  copy(to.row_range(0, rows).col_range(0, cols), from.row_range(0, rows).col_range(0, cols));
}

void fill_ones(Tensor x) {
  dispatch(x.dtype, [&]<class T>() { std::fill_n(x.as<T>(), x.cols, T(1.0f)); });
}

/// New weights of an idle or padded subblock. Zero channels of a padded one are behind the others.
SubblockWeights new_weights(const Model& model, const FormSource& source, const ModelConfig& config, Arena& memory) {
  SubblockWeights weights = make_weights(source.choice, config, model.dtype, memory);
  if (memory.is_planner()) return weights;
  const SubblockWeights* from = weights_of(model, source);
  if (from)
    copy(weights.norm, from->norm);
  else
    fill_ones(weights.norm);
  for (size_t p = 0; p < weights.params.size(); ++p) {
    if (from)
      copy_corner(weights.params[p].values, from->params[p].values);
    else
      fill_zero(weights.params[p].values);
  }
  return weights;
}

SubblockWeights form_weights(const Model& model, const FormSource& source, const ModelConfig& config, Arena& memory) {
  if (is_absent(source)) return {.choice = source.choice, .norm = {}, .params = {}};
  const SubblockWeights* from = weights_of(model, source);
  if (!from || (from->choice.variant == source.choice.variant && from->choice.size != source.choice.size))
    return new_weights(model, source, config, memory);
  return {.choice = source.choice, .norm = from->norm, .params = from->params};
}

}  // namespace

Architecture FormPlan::architecture() const {
  Architecture architecture;
  for (const FormBlock& block : blocks) architecture.push_back({block.attention.choice, block.ffn.choice});
  return architecture;
}

FormPlan plan_forms(const Architecture& architecture, const ModelConfig& config, const ReaderForms& reader) {
  return FormPlanner(architecture, config, reader).plan();
}

Model apply_forms(const Model& model, const FormPlan& plan) {
  CHECK(model.device() == Device::cpu, "only a model in the host's memory can be written in other forms");
  const auto apply = [&](Arena& memory) {
    Model result = model;
    result.config = plan.config;
    result.blocks.clear();
    for (const FormBlock& block : plan.blocks)
      result.blocks.push_back({form_weights(model, block.attention, plan.config, memory),
                               form_weights(model, block.ffn, plan.config, memory)});
    return result;
  };
  Arena planner = Arena::planner();
  Model result = apply(planner);
  if (planner.used_bytes() == 0) return result;
  const auto memory = std::make_shared<Arena>(planner.used_bytes());
  result = apply(*memory);
  result.memory.push_back(memory);
  return result;
}

}  // namespace tangram
