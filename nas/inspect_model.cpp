#include <map>
#include <nlohmann/json.hpp>

#include "blocks/config_json.h"
#include "blocks/kv_cache.h"
#include "blocks/safetensors.h"
#include "nas/inspect.h"
#include "nas/table.h"
#include "nas/units.h"
#include "puzzle/costs.h"

namespace tangram {
namespace {

/// What the files of a model hold.
struct Stored {
  int64_t bytes = 0;
  DType dtype = DType::f32;  ///< of most bytes
};

Stored read_stored(const std::filesystem::path& folder) {
  Stored stored;
  std::map<DType, int64_t> bytes;
  for (const auto& [name, tensor] : read_safetensors_folder(folder).tensors) {
    stored.bytes += tensor.bytes();
    bytes[tensor.dtype] += tensor.bytes();
  }
  for (const auto& [dtype, count] : bytes)
    if (count > bytes[stored.dtype]) stored.dtype = dtype;
  return stored;
}

int64_t block_parameters(const BlockChoice& block, const ModelConfig& config) {
  int64_t count = 0;
  for (Subblock s : {Subblock::attention, Subblock::ffn})
    if (const Choice& c = block.of(s); !c.variant->no_op) count += parameter_count(c, config) + config.hidden_size;
  return count;
}

std::string layer_range(size_t first, size_t last) {
  return first == last ? fmt::format("{}", first) : fmt::format("{}-{}", first, last);
}

/// First and last layer of each run of equal blocks.
std::vector<std::pair<size_t, size_t>> runs_of(const Architecture& architecture) {
  std::vector<std::pair<size_t, size_t>> runs;
  for (size_t l = 0; l < architecture.size(); ++l) {
    if (l > 0 && architecture[l] == architecture[l - 1])
      runs.back().second = l;
    else
      runs.emplace_back(l, l);
  }
  return runs;
}

void print_json(const ModelDescription& model, const Stored& stored, int64_t parameters, const VerbInput& in) {
  const ModelConfig& c = model.config;
  nlohmann::ordered_json json = {{"kind", "model"},
                                 {"hidden_size", c.hidden_size},
                                 {"intermediate_size", c.intermediate_size},
                                 {"num_hidden_layers", c.num_hidden_layers},
                                 {"num_attention_heads", c.num_attention_heads},
                                 {"num_key_value_heads", c.num_key_value_heads},
                                 {"head_dim", c.head_dim},
                                 {"vocab_size", c.vocab_size},
                                 {"max_position_embeddings", c.max_position_embeddings},
                                 {"tie_word_embeddings", c.tie_word_embeddings},
                                 {"dtype", name_of(stored.dtype)},
                                 {"parameters", parameters},
                                 {"bytes", stored.bytes},
                                 {"kv_bytes_per_token", KvCache::bytes(model.architecture, c, 1, 1, stored.dtype)}};
  json["blocks"] = nlohmann::ordered_json::array();
  for (const BlockChoice& block : model.architecture)
    json["blocks"].push_back({{"attention", block.attention.name()},
                              {"ffn", block.ffn.name()},
                              {"parameters", block_parameters(block, c)},
                              {"kv_bytes_per_token", KvCache::bytes({block}, c, 1, 1, stored.dtype)}});
  fmt::print(in.out, "{}\n", json.dump(2));
}

// What blocks a model is made of, equal ones beside each other in one row.
Table block_table(const Architecture& architecture) {
  Table table{.header = {"layers", "attention", "ffn"}, .rows = {}};
  for (const auto& [first, last] : runs_of(architecture))
    table.rows.push_back(
        {layer_range(first, last), architecture[first].attention.name(), architecture[first].ffn.name()});
  return table;
}

}  // namespace

void inspect_model(const std::filesystem::path& folder, const VerbInput& in) {
  const ModelDescription model = read_config(folder);
  const Stored stored = read_stored(folder);
  const ModelConfig& c = model.config;
  auto parameters = static_cast<int64_t>(outside_parameters(c));
  for (const BlockChoice& block : model.architecture) parameters += block_parameters(block, c);
  if (in.json) return print_json(model, stored, parameters, in);

  fmt::print(in.out, "Llama of {} layers, hidden size {}, {} heads of {}, vocabulary {}{}, {} positions\n",
             c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.head_dim, c.vocab_size,
             c.tie_word_embeddings ? " (head tied)" : "", c.max_position_embeddings);
  fmt::print(in.out, "{} parameters, {} as {}; KV cache {} a token\n\n", format_count(double(parameters)),
             format_bytes(double(stored.bytes)), name_of(stored.dtype),
             format_bytes(double(KvCache::bytes(model.architecture, c, 1, 1, stored.dtype))));
  Table table = block_table(model.architecture);
  table.header.insert(table.header.end(), {"parameters each", "KV cache a token"});
  const auto runs = runs_of(model.architecture);
  for (size_t i = 0; i < runs.size(); ++i) {
    const BlockChoice& block = model.architecture[runs[i].first];
    table.rows[i].push_back(format_count(double(block_parameters(block, c))));
    table.rows[i].push_back(format_bytes(double(KvCache::bytes({block}, c, 1, 1, stored.dtype))));
  }
  fmt::print(in.out, "{}", format_table(table));
}

}  // namespace tangram
