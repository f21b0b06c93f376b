#include <cmath>

#include "blocks/config_json.h"
#include "blocks/json.h"

namespace tangram {
namespace {

using json = nlohmann::json;

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
  if (ffn_mult_width(mult, config.hidden_size) == choice.size) {
    j["ffn_mult"] = mult;
  } else {
    j.erase("ffn_mult");  // a reader that finds the key does not look at the size
    j["intermediate_size"] = choice.size;
  }
  return j;
}

void add_block_configs(json& j, const ModelConfig& config, const Architecture& architecture) {
  j["architectures"] = json::array({"DeciLMForCausalLM"});
  j["auto_map"] = {{"AutoConfig", "configuration_decilm.DeciLMConfig"},
                   {"AutoModelForCausalLM", "modeling_decilm.DeciLMForCausalLM"}};
  j["model_type"] = "nemotron-nas";
  j["teacher"] = {{"intermediate_size", config.intermediate_size}, {"num_key_value_heads", config.num_key_value_heads}};
  j["intermediate_size"] = nullptr;
  j["num_key_value_heads"] = nullptr;
  for (const BlockChoice& block : architecture)
    j["block_configs"].push_back(
        {{"attention", attention_json(block.attention, config)}, {"ffn", ffn_json(block.ffn, config)}});
}

void add_per_layer_config(json& j, const ModelConfig& config, const Architecture& architecture) {
  json layers = json::object();
  std::vector<std::string> wordless;
  for (size_t i = 0; i < architecture.size(); ++i) {
    const auto& [attention, ffn] = architecture[i];
    for (const Choice& c : {attention, ffn})
      if (!c.is("gqa") && !c.is("ffn") && !c.is("no_op"))
        wordless.push_back(fmt::format("{} {} in layer {}", name_of(c.variant->subblock), c.name(), i));
    json layer = json::object();
    if (attention.is("no_op")) layer["skip"].push_back("attention");
    if (ffn.is("no_op")) layer["skip"].push_back("mlp");
    if (attention.is("gqa") && attention.size != config.num_key_value_heads)
      layer["num_key_value_heads"] = attention.size;
    if (ffn.is("ffn") && ffn.size != config.intermediate_size) layer["intermediate_size"] = ffn.size;
    if (!layer.empty()) layers[std::to_string(i)] = layer;
  }
  if (!wordless.empty())
    throw bad_input("per_layer_config has no words for {}; block_configs has", fmt::join(wordless, ", "));
  j["per_layer_config"] = layers;
}

}  // namespace

std::string config_json(const ModelConfig& config, const Architecture& architecture, DType dtype, IrregularForm form) {
  CHECK(std::cmp_equal(architecture.size(), config.num_hidden_layers), "{} blocks for {} layers", architecture.size(),
        config.num_hidden_layers);
  json j = common_json(config, dtype);
  j["architectures"] = json::array({"LlamaForCausalLM"});
  j["model_type"] = "llama";
  j["intermediate_size"] = config.intermediate_size;
  j["num_key_value_heads"] = config.num_key_value_heads;
  if (architecture != teacher_architecture(config)) {
    if (form == IrregularForm::block_configs)
      add_block_configs(j, config, architecture);
    else
      add_per_layer_config(j, config, architecture);
  }
  return j.dump(2) + "\n";
}

}  // namespace tangram
