#include <algorithm>
#include <numeric>
#include <set>

#include "blocks/file.h"
#include "blocks/gguf_model.h"
#include "blocks/gguf_names.h"

namespace tangram {
namespace {

constexpr int64_t kMostVocab = 1 << 22, kMostHidden = 1 << 18, kMostWidth = 1 << 22, kMostLayers = 4096,
                  kMostHeads = 4096, kMostHeadDim = 1024, kMostPositions = 1 << 26;

/// The metadata of one architecture, checked.
class GgufKeys {
 public:
  explicit GgufKeys(const GgufFile& file) : file_(file), arch_(file.at<std::string>("general.architecture")) {
    if (arch_ != "deci" && arch_ != "llama")
      throw bad_input("{}: general.architecture: found '{:.60}'; allowed: deci, llama", file.name, arch_);
  }

  std::string key(const char* name) const { return arch_ + "." + name; }
  bool has(const char* name) const { return file_.has(key(name)); }

  int64_t integer(const char* name, int64_t low, int64_t high) const {
    return checked(file_.at<int64_t>(key(name)), name, low, high);
  }

  double number(const char* name, double low, double high) const {
    const double value = file_.at<double>(key(name));
    if (!(value > low && value <= high))
      throw bad_input("{}: {}: found {}; allowed: above {} and at most {}", file_.name, key(name), value, low, high);
    return value;
  }

  /// One value a layer, or one for all.
  std::vector<int64_t> per_layer(const char* name, int64_t layers, int64_t high) const {
    const auto found = file_.metadata.find(key(name));
    if (found == file_.metadata.end() || std::holds_alternative<int64_t>(found->second))
      return std::vector<int64_t>(static_cast<size_t>(layers), integer(name, 0, high));
    const auto& values = file_.at<std::vector<int64_t>>(key(name));
    if (std::ssize(values) != layers)
      throw bad_input("{}: {}: {} values for {} layers", file_.name, key(name), values.size(), layers);
    for (const int64_t value : values) checked(value, name, 0, high);
    return values;
  }

 private:
  int64_t checked(int64_t value, const char* name, int64_t low, int64_t high) const {
    if (value < low || value > high)
      throw bad_input("{}: {}: found {}; allowed: {} to {}", file_.name, key(name), value, low, high);
    return value;
  }

  const GgufFile& file_;
  std::string arch_;
};

/// Puts a model together from a file; every tensor is used once.
class GgufLoader {
 public:
  explicit GgufLoader(const GgufFile& file) : file_(file), keys_(file) {}

  Model load() {
    read_config();
    read_architecture();
    DType dtype = DType::bf16;
    for (const auto& [name, t] : file_.tensors)
      if (t.rows > 1 && t.type != GgufType::bf16) dtype = DType::f32;
    Model model = make_model(config_, architecture_, dtype);
    fill("token_embd.weight", model.embedding.values);
    for (size_t l = 0; l < model.blocks.size(); ++l)
      for (const Subblock s : {Subblock::attention, Subblock::ffn})
        fill_subblock(static_cast<int64_t>(l), s, model.blocks[l].of(s));
    fill("output_norm.weight", model.final_norm);
    if (!config_.tie_word_embeddings) fill("output.weight", model.head.values);
    for (const auto& [name, t] : file_.tensors)
      if (!used_.contains(name))
        throw bad_input("{}: tensor '{:.100}' belongs to no part of the model that the keys describe", file_.name,
                        name);
    return model;
  }

 private:
  void read_config() {
    ModelConfig& c = config_;
    c.num_hidden_layers = keys_.integer("block_count", 1, kMostLayers);
    c.hidden_size = keys_.integer("embedding_length", 1, kMostHidden);
    c.max_position_embeddings = keys_.integer("context_length", 1, kMostPositions);
    c.rms_norm_eps = keys_.number("attention.layer_norm_rms_epsilon", 0, 1);
    if (keys_.has("rope.freq_base")) c.rope_theta = keys_.number("rope.freq_base", 0, 1e15);
    c.vocab_size = vocab_size();
    c.tie_word_embeddings = !file_.tensors.contains("output.weight");
    c.bos_token_id = token_id("tokenizer.ggml.bos_token_id");
    if (const int32_t eos = token_id("tokenizer.ggml.eos_token_id"); eos >= 0) c.eos_token_ids = {eos};
  }

  int64_t vocab_size() const {
    const auto embedding = file_.tensors.find("token_embd.weight");
    if (embedding == file_.tensors.end()) throw bad_input("{}: no tensor 'token_embd.weight'", file_.name);
    const int64_t size = embedding->second.rows;
    if (size > kMostVocab) throw bad_input("{}: {} tokens; allowed: at most {}", file_.name, size, kMostVocab);
    return size;
  }

  int32_t token_id(const char* key) const {
    if (!file_.has(key)) return -1;
    const auto id = file_.at<int64_t>(key);
    if (id < 0 || id >= config_.vocab_size)
      throw bad_input("{}: {}: found {}; allowed: 0 to {}", file_.name, key, id, config_.vocab_size - 1);
    return static_cast<int32_t>(id);
  }

  void read_architecture() {
    const int64_t layers = config_.num_hidden_layers;
    const std::vector<int64_t> heads = keys_.per_layer("attention.head_count", layers, kMostHeads);
    const std::vector<int64_t> kv_heads = keys_.per_layer("attention.head_count_kv", layers, kMostHeads);
    const std::vector<int64_t> widths = keys_.per_layer("feed_forward_length", layers, kMostWidth);
    read_heads(heads, kv_heads);
    config_.intermediate_size = std::max<int64_t>(*std::max_element(widths.begin(), widths.end()), 1);
    for (int64_t l = 0; l < layers; ++l) {
      const auto i = static_cast<size_t>(l);
      const std::string attention = heads[i] == 0      ? "no_op"
                                    : kv_heads[i] == 0 ? "linear"
                                                       : fmt::format("gqa_{}", kv_heads[i]);
      const std::string ffn = widths[i] == 0 ? "no_op" : is_linear_ffn(l) ? "linear" : fmt::format("ffn_{}", widths[i]);
      architecture_.push_back({choice(Subblock::attention, attention, l), choice(Subblock::ffn, ffn, l)});
    }
    shrink_width();
    read_rope();
  }

  Choice choice(Subblock subblock, const std::string& text, int64_t layer) const try {
    return parse_choice(subblock, text, config_);
  } catch (const Error& e) {
    throw bad_input("{}: layer {}: {}", file_.name, layer, e.what());
  }

  /// A linear FFN's width is none of the model's.
  void shrink_width() {
    int64_t widest = 0;
    for (const BlockChoice& block : architecture_) widest = std::max(widest, block.ffn.size);
    if (widest > 0) config_.intermediate_size = widest;
  }

  void read_heads(const std::vector<int64_t>& heads, const std::vector<int64_t>& kv_heads) {
    config_.num_attention_heads = *std::max_element(heads.begin(), heads.end());
    if (config_.num_attention_heads < 1) throw bad_input("{}: no layer has attention heads", file_.name);
    config_.num_key_value_heads = 1;
    for (size_t l = 0; l < heads.size(); ++l) {
      if (heads[l] != 0 && heads[l] != config_.num_attention_heads)
        throw bad_input("{}: layer {} has {} attention heads, another {}; blocks have one number", file_.name, l,
                        heads[l], config_.num_attention_heads);
      if (kv_heads[l] > 0 && config_.num_attention_heads % kv_heads[l] != 0)
        throw bad_input("{}: layer {}: {} KV heads; allowed: a divisor of the {} attention heads", file_.name, l,
                        kv_heads[l], config_.num_attention_heads);
      if (heads[l] > 0 && kv_heads[l] > 0)
        config_.num_key_value_heads = std::lcm(config_.num_key_value_heads, kv_heads[l]);
    }
    const int64_t derived = config_.hidden_size / config_.num_attention_heads;
    config_.head_dim =
        keys_.has("attention.key_length") ? keys_.integer("attention.key_length", 2, kMostHeadDim) : derived;
    if (config_.head_dim % 2 != 0 || config_.head_dim < 2 || config_.head_dim > kMostHeadDim)
      throw bad_input("{}: heads of {} channels; allowed: an even number from 2 to {}", file_.name, config_.head_dim,
                      kMostHeadDim);
    for (const char* same : {"attention.value_length", "rope.dimension_count"})
      if (keys_.has(same)) keys_.integer(same, config_.head_dim, config_.head_dim);
  }

  /// The stretching of RoPE from its own keys, or the values of all Llamas from 3.1 on; it has to give the tensor's
  /// factors.
  void read_rope() {
    const auto found = file_.tensors.find(kRopeFactors);
    if (found == file_.tensors.end()) return;
    const StoredTensor& t = file_.tensor(kRopeFactors, 1, config_.head_dim / 2);
    std::vector<float> stored(static_cast<size_t>(t.cols));
    decode_row(stored, t.type, t.data);
    RopeScaling s{.factor = double(*std::max_element(stored.begin(), stored.end()))};
    if (keys_.has("rope.scaling.llama3_factor")) {
      s.factor = keys_.number("rope.scaling.llama3_factor", 0, 1e6);
      s.low_freq_factor = keys_.number("rope.scaling.llama3_low_freq_factor", 0, 1e6);
      s.high_freq_factor = keys_.number("rope.scaling.llama3_high_freq_factor", s.low_freq_factor, 1e6);
      s.original_max_position_embeddings =
          keys_.integer("rope.scaling.llama3_original_context_length", 1, kMostPositions);
    }
    config_.rope_scaling = s;
    const std::vector<float> expected = rope_factors(config_);
    for (size_t i = 0; i < stored.size(); ++i)
      if (!(std::abs(stored[i] - expected[i]) <= 1e-5f * expected[i]))
        throw bad_input("{}: {}[{}] is {}; a Llama's would be {}: this stretching of RoPE is not supported", file_.name,
                        kRopeFactors, i, stored[i], expected[i]);
    used_.insert(kRopeFactors);
  }

  bool is_linear_ffn(int64_t layer) const { return file_.tensors.contains(fmt::format("blk.{}.ffn_gate.bias", layer)); }

  const StoredTensor& take(const std::string& name, int64_t rows, int64_t cols) {
    used_.insert(name);
    return file_.tensor(name, rows, cols);
  }

  void fill(const std::string& name, Tensor values, bool rotated = false) {
    const StoredTensor& t = take(name, values.rows, values.cols);
    const int64_t bytes = row_bytes(t.type, t.cols);
    std::vector<float> row(static_cast<size_t>(t.cols));
    for (int64_t r = 0; r < t.rows; ++r) {
      decode_row(row, t.type, t.data + r * bytes);
      copy(values.row_range(rotated ? checkpoint_row(r, config_.head_dim) : r, 1), view_of(row.data(), 1, t.cols));
    }
  }

  void fill_subblock(int64_t layer, Subblock s, const SubblockWeights& weights) {
    if (weights.choice.variant->no_op) return;
    fill(gguf_norm_name(layer, s), weights.norm);
    const auto specs = weights.choice.variant->params({config_, weights.choice.size});
    for (size_t p = 0; p < specs.size(); ++p)
      fill(gguf_name(layer, specs[p].name), weights.params[p].values, is_rotated(specs[p].name));
    if (s == Subblock::ffn && weights.choice.is("linear")) check_unit_gate(layer);
  }

  /// Only the gate that write_gguf_model gives a linear FFN may have a bias.
  void check_unit_gate(int64_t layer) {
    const int64_t H = config_.hidden_size;
    const auto check = [&](const char* tensor, int64_t rows, const auto& expected) {
      const std::string name = fmt::format("blk.{}.{}", layer, tensor);
      const StoredTensor& t = take(name, rows, H);
      std::vector<float> row(static_cast<size_t>(H));
      for (int64_t r = 0; r < rows; ++r) {
        decode_row(row, t.type, t.data + r * row_bytes(t.type, H));
        for (int64_t c = 0; c < H; ++c)
          if (std::abs(row[static_cast<size_t>(c)] - expected(r, c)) > 1e-3f)
            throw bad_input("{}: layer {} has an FFN with biases, which blocks cannot be ('{}')", file_.name, layer,
                            name);
      }
    };
    check("ffn_gate.bias", 1, [](int64_t, int64_t) { return kSiluOne; });
    check("ffn_gate.weight", H, [](int64_t, int64_t) { return 0.0f; });
    check("ffn_down.weight", H, [](int64_t r, int64_t c) { return float(r == c); });
  }

  const GgufFile& file_;
  GgufKeys keys_;
  ModelConfig config_;
  Architecture architecture_;
  std::set<std::string> used_;
};

}  // namespace

Model load_gguf_model(const std::filesystem::path& path) {
  const GgufFile file = read_gguf(path);
  return GgufLoader(file).load();
}

}  // namespace tangram
