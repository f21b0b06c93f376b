#include "blocks/config_json.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "blocks/file.h"
#include "blocks/json.h"

namespace tangram {
namespace {

using json = nlohmann::json;

constexpr int64_t kMaxFileBytes = 16 << 20;
constexpr int kMaxDepth = 16;
// An order of magnitude above the largest models; products of two fit 64 bits with room.
constexpr int64_t kMaxVocab = 1 << 22, kMaxHidden = 1 << 18, kMaxWidth = 1 << 22, kMaxLayers = 4096, kMaxHeads = 4096,
                  kMaxHeadDim = 1024, kMaxPositions = 1 << 26, kMaxEosTokens = 64;
constexpr double kMaxTheta = 1e15, kMaxScaling = 1e6;

/// An object of the file and where it stands. A key that is null counts as absent.
class Object {
 public:
  Object(const json& value, std::string where) : value_(value), where_(std::move(where)) {
    if (!value.is_object()) throw bad_input("{}: found {:.100}; allowed: an object", where_, value.dump());
  }

  [[noreturn]] void refuse(const char* key, std::string_view allowed) const {
    throw bad_input("{}: {}: found {:.100}; allowed: {}", where_, key, value_.value(key, json()).dump(), allowed);
  }

  const std::string& where() const { return where_; }

  const json* find(const char* key) const {
    const auto found = value_.find(key);
    return found == value_.end() || found->is_null() ? nullptr : &*found;
  }

  int64_t integer(const char* key, int64_t low, int64_t high) const {
    required(key);
    return integer(key, low, high, 0);
  }
  int64_t integer(const char* key, int64_t low, int64_t high, int64_t absent) const {
    const json* found = find(key);
    return found ? checked_integer(*found, key, low, high) : absent;
  }

  std::vector<int32_t> token_ids(const char* key, int64_t vocab_size) const {
    const json* found = find(key);
    if (!found) return {};
    std::vector<int32_t> ids;
    for (const json& id : found->is_array() ? *found : json::array({*found}))
      ids.push_back(static_cast<int32_t>(checked_integer(id, key, 0, vocab_size - 1)));
    if (ids.size() > kMaxEosTokens) refuse(key, fmt::format("at most {} ids", kMaxEosTokens));
    return ids;
  }

  /// A number above `low` and at most `high`.
  double number(const char* key, double low, double high) const {
    required(key);
    return number(key, low, high, 0);
  }
  double number(const char* key, double low, double high, double absent) const {
    const json* found = find(key);
    if (!found) return absent;
    const double value = found->is_number() ? found->get<double>() : NAN;
    if (!(value > low && value <= high)) refuse(key, fmt::format("a number above {} and at most {}", low, high));
    return value;
  }

  bool flag(const char* key) const {
    const json* found = find(key);
    if (found && !found->is_boolean()) refuse(key, "true or false");
    return found && found->get<bool>();
  }

  std::string text(const char* key) const {
    const json* found = find(key);
    if (found && !found->is_string()) refuse(key, "a text");
    return found ? found->get<std::string>() : "";
  }

  Object object(const char* key) const { return {*find(key), fmt::format("{}: {}", where_, key)}; }

  /// Refuses what none of our models has, but for `allowed` and an absent key.
  void expect(const char* key, const json& allowed) const {
    if (const json* found = find(key); found && *found != allowed) refuse(key, allowed.dump() + " only");
  }

 private:
  void required(const char* key) const {
    if (find(key)) return;
    std::vector<std::string> known;
    for (const auto& [present, ignored] : value_.items()) known.push_back(present);
    const std::string nearest = nearest_name(key, known);
    throw bad_input("{}: no key '{}'{}", where_, key,
                    nearest.empty() || nearest == key ? "" : fmt::format("; the nearest is '{:.100}'", nearest));
  }

  int64_t checked_integer(const json& value, const char* key, int64_t low, int64_t high) const {
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX}) ||
        value.get<int64_t>() < low || value.get<int64_t>() > high)
      refuse(key, fmt::format("a whole number from {} to {}", low, high));
    return value.get<int64_t>();
  }

  const json& value_;
  std::string where_;
};

void read_scaling(ModelConfig& config, const Object& scaling) {
  const std::string type = scaling.find("rope_type") ? scaling.text("rope_type") : scaling.text("type");
  scaling.expect("partial_rotary_factor", 1.0);
  if (type == "default" || (type.empty() && !scaling.find("factor"))) return;
  if (type != "llama3")
    scaling.refuse(scaling.find("rope_type") || !scaling.find("type") ? "rope_type" : "type",
                   "\"llama3\" or \"default\"");
  RopeScaling s;
  s.factor = scaling.number("factor", 0, kMaxScaling);
  s.low_freq_factor = scaling.number("low_freq_factor", 0, kMaxScaling);
  s.high_freq_factor = scaling.number("high_freq_factor", s.low_freq_factor, kMaxScaling);
  s.original_max_position_embeddings = scaling.integer("original_max_position_embeddings", 1, kMaxPositions);
  config.rope_scaling = s;
}

// `rope_parameters` is what transformers 5 made of `rope_theta` and `rope_scaling`.
void read_rope(ModelConfig& config, const Object& root) {
  config.rope_theta = root.number("rope_theta", 0, kMaxTheta, config.rope_theta);
  if (root.find("rope_parameters")) {
    const Object parameters = root.object("rope_parameters");
    config.rope_theta = parameters.number("rope_theta", 0, kMaxTheta, config.rope_theta);
    read_scaling(config, parameters);
  } else if (root.find("rope_scaling")) {
    read_scaling(config, root.object("rope_scaling"));
  }
}

/// Everything but the sizes that `block_configs` replaces.
ModelConfig read_common(const Object& root) {
  for (const char* bias : {"attention_bias", "mlp_bias"}) root.expect(bias, false);
  root.expect("hidden_act", "silu");
  root.expect("quantization_config", nullptr);
  ModelConfig c;
  c.vocab_size = root.integer("vocab_size", 1, kMaxVocab);
  c.hidden_size = root.integer("hidden_size", 1, kMaxHidden);
  c.num_hidden_layers = root.integer("num_hidden_layers", 1, kMaxLayers);
  c.num_attention_heads = root.integer("num_attention_heads", 1, kMaxHeads);
  c.max_position_embeddings = root.integer("max_position_embeddings", 1, kMaxPositions);
  c.rms_norm_eps = root.number("rms_norm_eps", 0, 1);
  c.tie_word_embeddings = root.flag("tie_word_embeddings");
  c.head_dim = root.integer("head_dim", 2, kMaxHeadDim, c.hidden_size / c.num_attention_heads);
  if (!root.find("head_dim") && c.hidden_size % c.num_attention_heads != 0)
    root.refuse("hidden_size", fmt::format("a multiple of the {} attention heads", c.num_attention_heads));
  if (c.head_dim % 2 != 0 || c.head_dim < 2 || c.head_dim > kMaxHeadDim)
    throw bad_input("{}: head_dim: found {}; allowed: an even number from 2 to {}", root.where(), c.head_dim,
                    kMaxHeadDim);
  c.bos_token_id = static_cast<int32_t>(root.integer("bos_token_id", 0, c.vocab_size - 1, -1));
  c.eos_token_ids = root.token_ids("eos_token_id", c.vocab_size);
  read_rope(c, root);
  return c;
}

int64_t read_kv_heads(const Object& root, const ModelConfig& config, int64_t absent) {
  const int64_t heads = root.integer("num_key_value_heads", 1, config.num_attention_heads, absent);
  if (config.num_attention_heads % heads != 0)
    root.refuse("num_key_value_heads", fmt::format("a divisor of the {} attention heads", config.num_attention_heads));
  return heads;
}

ModelDescription read_llama(const Object& root) {
  for (const char* irregular : {"block_configs", "per_layer_config"}) root.expect(irregular, nullptr);
  ModelConfig config = read_common(root);
  config.intermediate_size = root.integer("intermediate_size", 1, kMaxWidth);
  config.num_key_value_heads = read_kv_heads(root, config, config.num_attention_heads);
  return {config, teacher_architecture(config)};
}

/// One subblock of `block_configs`: the spelling of its choice and, where it has one, the size that the teacher's has
/// to cover.
struct BlockEntry {
  std::string where, choice;
  int64_t size = 0;
};

/// The choice where no number is needed; empty otherwise.
std::string read_simple_choice(const Object& entry) {
  const bool no_op = entry.flag("no_op"), linear = entry.flag("replace_with_linear");
  if (no_op && linear) entry.refuse("no_op", "false beside replace_with_linear");
  entry.expect("sparsify", nullptr);
  if (no_op) return "no_op";
  return linear ? "linear" : entry.text("variant");
}

BlockEntry read_attention(const Object& entry, const ModelConfig& config) {
  for (const char* key : {"num_sink_tokens", "mamba", "llama4"}) entry.expect(key, nullptr);
  for (const char* key : {"unshifted_sink", "use_prefill_window_in_sink_attention"}) entry.expect(key, false);
  BlockEntry result{.where = entry.where(), .choice = read_simple_choice(entry)};
  if (!result.choice.empty()) return result;
  const int64_t group = entry.integer("n_heads_in_group", 1, config.num_attention_heads);
  if (config.num_attention_heads % group != 0)
    entry.refuse("n_heads_in_group", fmt::format("a divisor of the {} attention heads", config.num_attention_heads));
  result.size = config.num_attention_heads / group;
  const int64_t window = entry.integer("window_length", 1, kMaxPositions, 0);
  result.choice = window > 0 ? fmt::format("window_{}", window) : fmt::format("gqa_{}", result.size);
  return result;
}

int64_t width_of_mult(double ffn_mult, int64_t hidden_size) {
  return round_up(static_cast<int64_t>(2 * ffn_mult * double(hidden_size) / 3), 256);
}

BlockEntry read_ffn(const Object& entry, const ModelConfig& config) {
  entry.expect("moe", nullptr);
  entry.expect("hidden_act", "silu");
  BlockEntry result{.where = entry.where(), .choice = read_simple_choice(entry)};
  if (!result.choice.empty()) return result;
  if (entry.find("intermediate_size")) {
    result.size = entry.integer("intermediate_size", 1, kMaxWidth);
  } else {
    result.size = width_of_mult(entry.number("ffn_mult", 0, double(kMaxWidth)), config.hidden_size);
    if (result.size < 1 || result.size > kMaxWidth)
      entry.refuse("ffn_mult", fmt::format("a width from 1 to {}, and this one is {}", kMaxWidth, result.size));
  }
  result.choice = fmt::format("ffn_{}", result.size);
  return result;
}

Choice choice_of(Subblock subblock, const BlockEntry& entry, const ModelConfig& config) try {
  if (entry.choice.starts_with("window_") && entry.size > 0 && entry.size != config.num_key_value_heads)
    throw bad_input("a window over {} key/value heads; allowed: the teacher's {}", entry.size,
                    config.num_key_value_heads);
  return parse_choice(subblock, entry.choice, config);
} catch (const Error& e) {
  throw bad_input("{}: {}", entry.where, e.what());
}

ModelDescription read_nemotron(const Object& root) {
  ModelConfig config = read_common(root);
  const json* blocks = root.find("block_configs");
  if (!blocks || !blocks->is_array() || std::cmp_not_equal(blocks->size(), config.num_hidden_layers))
    throw bad_input("{}: block_configs: found {}; allowed: a list of num_hidden_layers = {} objects", root.where(),
                    !blocks              ? "nothing"
                    : blocks->is_array() ? fmt::format("{} elements", blocks->size())
                                         : "no list",
                    config.num_hidden_layers);
  std::vector<BlockEntry> attention, ffn;
  for (size_t i = 0; i < blocks->size(); ++i) {
    const Object block((*blocks)[i], fmt::format("{}: block_configs[{}]", root.where(), i));
    for (const char* key : {"attention", "ffn"})
      if (!block.find(key)) block.refuse(key, "an object");
    block.expect("parallel_blocks", nullptr);
    attention.push_back(read_attention(block.object("attention"), config));
    ffn.push_back(read_ffn(block.object("ffn"), config));
  }
  int64_t kv_heads = 1, width = 1;
  for (const BlockEntry& e : attention) kv_heads = std::lcm(kv_heads, std::max<int64_t>(e.size, 1));
  for (const BlockEntry& e : ffn) width = std::max(width, e.size);
  const json none = json::object();
  const Object teacher = root.find("teacher") ? root.object("teacher") : Object(none, root.where());
  config.num_key_value_heads = read_kv_heads(teacher, config, kv_heads);
  config.intermediate_size = teacher.integer("intermediate_size", 1, kMaxWidth, width);
  ModelDescription result{config, {}};
  for (size_t i = 0; i < attention.size(); ++i)
    result.architecture.push_back(
        {choice_of(Subblock::attention, attention[i], config), choice_of(Subblock::ffn, ffn[i], config)});
  return result;
}

std::string torch_dtype(DType dtype) {
  CHECK(dtype == DType::f32 || dtype == DType::bf16, "no model is of {}", name_of(dtype));
  return dtype == DType::f32 ? "float32" : "bfloat16";
}

json common_json(const ModelConfig& c, DType dtype) {
  json j{{"attention_bias", false},
         {"attention_dropout", 0.0},
         {"bos_token_id", nullptr},
         {"eos_token_id", nullptr},
         {"hidden_act", "silu"},
         {"hidden_size", c.hidden_size},
         {"initializer_range", 0.02},
         {"max_position_embeddings", c.max_position_embeddings},
         {"mlp_bias", false},
         {"num_attention_heads", c.num_attention_heads},
         {"num_hidden_layers", c.num_hidden_layers},
         {"pretraining_tp", 1},
         {"rms_norm_eps", c.rms_norm_eps},
         {"rope_scaling", nullptr},
         {"rope_theta", c.rope_theta},
         {"tie_word_embeddings", c.tie_word_embeddings},
         {"torch_dtype", torch_dtype(dtype)},
         {"use_cache", true},
         {"vocab_size", c.vocab_size}};
  if (c.bos_token_id >= 0) j["bos_token_id"] = c.bos_token_id;
  if (c.eos_token_ids.size() == 1) j["eos_token_id"] = c.eos_token_ids[0];
  if (c.eos_token_ids.size() > 1) j["eos_token_id"] = c.eos_token_ids;
  // Readers of nemotron-nas derive the head's size, so it is said only where they would be wrong.
  if (c.head_dim * c.num_attention_heads != c.hidden_size) j["head_dim"] = c.head_dim;
  if (const auto& s = c.rope_scaling)
    j["rope_scaling"] = {{"factor", s->factor},
                         {"high_freq_factor", s->high_freq_factor},
                         {"low_freq_factor", s->low_freq_factor},
                         {"original_max_position_embeddings", s->original_max_position_embeddings},
                         {"rope_type", "llama3"}};
  return j;
}

/// What the entries of both subblocks have in common.
json entry_json(const Choice& choice, bool has_words) {
  json j{{"no_op", choice.variant->no_op}, {"replace_with_linear", choice.is("linear")}, {"sparsify", nullptr}};
  if (!has_words) j["variant"] = choice.name();
  return j;
}

json attention_json(const Choice& choice, const ModelConfig& config) {
  const std::string_view kind = choice.variant->name;
  const bool is_gqa = kind == "gqa", is_window = kind == "window";
  json j = entry_json(choice, is_gqa || is_window || kind == "linear" || kind == "no_op");
  j["num_sink_tokens"] = nullptr;
  j["unshifted_sink"] = false;
  j["use_prefill_window_in_sink_attention"] = false;
  j["n_heads_in_group"] = nullptr;
  j["window_length"] = nullptr;
  if (is_gqa) j["n_heads_in_group"] = config.num_attention_heads / choice.size;
  if (is_window) {
    j["n_heads_in_group"] = config.num_attention_heads / config.num_key_value_heads;
    j["window_length"] = choice.size;
  }
  return j;
}

json ffn_json(const Choice& choice, const ModelConfig& config) {
  const std::string_view kind = choice.variant->name;
  json j = entry_json(choice, kind == "ffn" || kind == "linear" || kind == "no_op");
  j["ffn_mult"] = nullptr;
  if (kind != "ffn") return j;
  const double mult = std::round(1.5e6 * double(choice.size) / double(config.hidden_size)) / 1e6;
  if (width_of_mult(mult, config.hidden_size) == choice.size) {
    j["ffn_mult"] = mult;
  } else {
    j.erase("ffn_mult");  // a reader that finds the key does not look at the size
    j["intermediate_size"] = choice.size;
  }
  return j;
}

}  // namespace

ModelDescription parse_config_json(std::string_view text, const std::string& name) {
  const json value = parse_json(text, name, kMaxDepth);
  const Object root(value, name);
  const std::vector<std::string> known{"llama", "nemotron-nas"};
  const std::string type = root.text("model_type");
  if (type == known[0]) return read_llama(root);
  if (type == known[1]) return read_nemotron(root);
  throw bad_input("{}: {}", name, unknown_name("model_type", type, known).what());
}

ModelDescription read_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "config.json";
  return parse_config_json(read_text_file(path, kMaxFileBytes), path.string());
}

std::string config_json(const ModelConfig& config, const Architecture& architecture, DType dtype) {
  CHECK(std::cmp_equal(architecture.size(), config.num_hidden_layers), "{} blocks for {} layers", architecture.size(),
        config.num_hidden_layers);
  json j = common_json(config, dtype);
  j["intermediate_size"] = config.intermediate_size;
  j["num_key_value_heads"] = config.num_key_value_heads;
  if (architecture == teacher_architecture(config)) {
    j["architectures"] = json::array({"LlamaForCausalLM"});
    j["model_type"] = "llama";
    return j.dump(2) + "\n";
  }
  j["architectures"] = json::array({"DeciLMForCausalLM"});
  j["model_type"] = "nemotron-nas";
  j["teacher"] = {{"intermediate_size", config.intermediate_size}, {"num_key_value_heads", config.num_key_value_heads}};
  j["intermediate_size"] = nullptr;
  j["num_key_value_heads"] = nullptr;
  for (const BlockChoice& block : architecture)
    j["block_configs"].push_back(
        {{"attention", attention_json(block.attention, config)}, {"ffn", ffn_json(block.ffn, config)}});
  return j.dump(2) + "\n";
}

}  // namespace tangram
