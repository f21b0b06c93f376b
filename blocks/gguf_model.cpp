#include "blocks/gguf_model.h"

#include <algorithm>

#include "blocks/gguf_names.h"

namespace tangram {
namespace {

/// Collects the tensors of a file.
class GgufBuilder {
 public:
  GgufBuilder(const Model& model, const GgufOptions& options) : model_(model), options_(options) {}

  std::vector<GgufTensor> tensors() {
    const ModelConfig& c = model_.config;
    add_matrix("token_embd.weight", model_.embedding.values, nullptr);
    if (c.rope_scaling)
      add_vector(kRopeFactors, c.head_dim / 2, [f = rope_factors(c)](auto out) { std::ranges::copy(f, out.begin()); });
    for (size_t l = 0; l < model_.blocks.size(); ++l)
      for (const Subblock s : {Subblock::attention, Subblock::ffn})
        add_subblock(static_cast<int64_t>(l), s, model_.blocks[l].of(s));
    add_norm("output_norm.weight", model_.final_norm);
    if (!c.tie_word_embeddings) add_matrix("output.weight", model_.head.values, nullptr);
    return std::move(tensors_);
  }

 private:
  using RowOf = int64_t (*)(int64_t r, int64_t head_dim);

  GgufType type_for(int64_t cols) const { return can_store(options_.type, cols) ? options_.type : GgufType::f16; }

  void add_matrix(const std::string& name, Tensor values, RowOf row_of) {
    const int64_t head_dim = model_.config.head_dim;
    add(name, values.rows, values.cols, [values, row_of, head_dim](std::span<float> out, int64_t r) {
      copy(view_of(out.data(), 1, values.cols), values.row_range(row_of ? row_of(r, head_dim) : r, 1));
    });
    if (options_.release && values.contiguous()) tensors_.back().mapped = values;
  }

  template <class F>
  void add(const std::string& name, int64_t rows, int64_t cols, F row) {
    tensors_.push_back({name, type_for(cols), rows, cols, std::move(row), {}});
  }

  template <class F>
  void add_vector(const std::string& name, int64_t cols, F fill) {
    tensors_.push_back({name, GgufType::f32, 1, cols, [fill](std::span<float> out, int64_t) { fill(out); }});
  }

  void add_norm(const std::string& name, Tensor norm) {
    add_vector(name, norm.cols, [norm](std::span<float> out) { copy(view_of(out.data(), 1, norm.cols), norm); });
  }

  void add_subblock(int64_t layer, Subblock s, const SubblockWeights& weights) {
    if (weights.choice.variant->no_op) return;
    add_norm(gguf_norm_name(layer, s), weights.norm);
    const auto specs = weights.choice.variant->params({model_.config, weights.choice.size});
    for (size_t p = 0; p < specs.size(); ++p)
      add_matrix(gguf_name(layer, specs[p].name), weights.params[p].values,
                 is_rotated(specs[p].name) ? checkpoint_row : nullptr);
    if (s == Subblock::ffn && weights.choice.is("linear")) add_unit_gate(layer);
  }

  /// What makes a SwiGLU of a linear FFN's matrix.
  void add_unit_gate(int64_t layer) {
    const int64_t H = model_.config.hidden_size;
    const auto name = [&](const char* tensor) { return fmt::format("blk.{}.{}", layer, tensor); };
    add_vector(name("ffn_gate.bias"), H, [](auto out) { std::ranges::fill(out, kSiluOne); });
    add(name("ffn_gate.weight"), H, H, [](auto out, int64_t) { std::ranges::fill(out, 0.0f); });
    add(name("ffn_down.weight"), H, H, [](auto out, int64_t r) {
      std::ranges::fill(out, 0.0f);
      out[static_cast<size_t>(r)] = 1;
    });
    if (options_.type == GgufType::q8_0) tensors_.back().type = GgufType::f16;  // 8 bits have no exact 1
  }

  const Model& model_;
  const GgufOptions& options_;
  std::vector<GgufTensor> tensors_;
};

int64_t heads_of(const Choice& attention, const ModelConfig& config) {
  return attention.variant->no_op ? 0 : config.num_attention_heads;
}
int64_t kv_heads_of(const Choice& attention) { return attention.is("gqa") ? attention.size : 0; }
int64_t width_of(const Choice& ffn, const ModelConfig& config) {
  return ffn.is("linear") ? config.hidden_size : ffn.size;
}

int64_t file_type(GgufType type) {
  switch (type) {
    case GgufType::f32:
      return 0;
    case GgufType::f16:
      return 1;
    case GgufType::q8_0:
      return 7;
    case GgufType::bf16:
      return 32;
  }
  return 0;
}

GgufMetadata metadata_of(const Model& model, const GgufOptions& options) {
  const ModelConfig& c = model.config;
  const Architecture architecture = model.architecture();
  const bool regular = architecture == teacher_architecture(c);
  const std::string arch = regular ? "llama" : "deci";
  GgufMetadata m{{"general.architecture", arch}, {"general.file_type", file_type(options.type)}};
  if (!options.name.empty()) m.push_back({"general.name", options.name});
  const auto add = [&](const char* key, GgufValue value) { m.push_back({arch + "." + key, std::move(value)}); };
  add("block_count", c.num_hidden_layers), add("context_length", c.max_position_embeddings);
  add("embedding_length", c.hidden_size), add("vocab_size", c.vocab_size);
  if (regular) {
    add("attention.head_count", c.num_attention_heads), add("attention.head_count_kv", c.num_key_value_heads);
    add("feed_forward_length", c.intermediate_size);
  } else {
    std::vector<int64_t> heads, kv_heads, widths;
    for (const BlockChoice& block : architecture) {
      heads.push_back(heads_of(block.attention, c)), kv_heads.push_back(kv_heads_of(block.attention));
      widths.push_back(width_of(block.ffn, c));
    }
    add("attention.head_count", heads), add("attention.head_count_kv", kv_heads), add("feed_forward_length", widths);
  }
  add("attention.key_length", c.head_dim), add("attention.value_length", c.head_dim);
  add("attention.layer_norm_rms_epsilon", c.rms_norm_eps), add("rope.freq_base", c.rope_theta);
  add("rope.dimension_count", c.head_dim);
  if (c.rope_scaling) {  // readers take rope_freqs; these say where it comes from
    add("rope.scaling.llama3_factor", c.rope_scaling->factor);
    add("rope.scaling.llama3_low_freq_factor", c.rope_scaling->low_freq_factor);
    add("rope.scaling.llama3_high_freq_factor", c.rope_scaling->high_freq_factor);
    add("rope.scaling.llama3_original_context_length", c.rope_scaling->original_max_position_embeddings);
  }
  return m;
}

void add_tokenizer(GgufMetadata& metadata, const ModelConfig& config, const GgufOptions& options) {
  GgufMetadata keys{{"tokenizer.ggml.model", "no_vocab"}};
  if (options.tokenizer) keys = gguf_tokenizer(*options.tokenizer, config.vocab_size);
  const auto add_id = [&](const char* key, int32_t id) {
    const auto has_key = [&](const auto& k) { return k.first == key; };
    if (id >= 0 && std::none_of(keys.begin(), keys.end(), has_key)) keys.emplace_back(key, int64_t{id});
  };
  add_id("tokenizer.ggml.bos_token_id", config.bos_token_id);
  add_id("tokenizer.ggml.eos_token_id", config.eos_token_ids.empty() ? -1 : config.eos_token_ids[0]);
  if (!options.chat_template.empty()) keys.emplace_back("tokenizer.chat_template", options.chat_template);
  metadata.insert(metadata.end(), keys.begin(), keys.end());
}

}  // namespace

std::vector<FormChange> gguf_obstacles(const Architecture& architecture) {
  std::vector<FormChange> obstacles;
  for (size_t l = 0; l < architecture.size(); ++l)
    if (const Choice& a = architecture[l].attention; a.is("window"))
      obstacles.push_back({static_cast<int64_t>(l), fmt::format("{}: the format has no windows", a.name())});
  return obstacles;
}

std::vector<FormChange> write_gguf_model(const std::filesystem::path& path, const Model& model,
                                         const GgufOptions& options) {
  if (const auto obstacles = gguf_obstacles(model.architecture()); !obstacles.empty())
    throw bad_input("{}: GGUF cannot hold this model: layer {}: {}", path.string(), obstacles[0].layer,
                    obstacles[0].text);
  FormPlan plan = plan_forms(model.architecture(), model.config, kGgufForms);
  if (std::ssize(plan.blocks) > kGgufMostLayers)
    throw bad_input("{}: {} layers; llama.cpp reads at most {}", path.string(), plan.blocks.size(), kGgufMostLayers);
  const Model written = apply_forms(model, plan);
  for (size_t l = 0; l < plan.blocks.size(); ++l)
    if (plan.blocks[l].ffn.choice.is("linear"))
      plan.changes.push_back({plan.blocks[l].ffn.layer, "the linear FFN is a SwiGLU whose gate is 1"});
  GgufMetadata metadata = metadata_of(written, options);
  add_tokenizer(metadata, written.config, options);
  write_gguf(path, metadata, GgufBuilder(written, options).tensors(), options.threads);
  return plan.changes;
}

}  // namespace tangram
