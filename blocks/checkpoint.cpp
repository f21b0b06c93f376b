#include "blocks/checkpoint.h"

#include <cstring>
#include <set>

#include "blocks/config_json.h"
#include "blocks/file.h"
#include "blocks/safetensors.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

bool is_weight(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

/// Takes the tensors of a model one after the other out of its files.
class WeightReader {
 public:
  WeightReader(SafeTensors files, std::optional<DType> dtype) : files_(std::move(files)), dtype_(wanted(dtype)) {
    int64_t converted_bytes = 0;
    for (const auto& [name, t] : files_.tensors)
      if (t.dtype != dtype_) converted_bytes += round_up(t.size() * size_of(dtype_), 64);
    if (converted_bytes > 0) arena_ = std::make_shared<Arena>(converted_bytes);
  }

  DType dtype() const { return dtype_; }

  Tensor take(const std::string& name, int64_t rows, int64_t cols) {
    const Tensor stored = find(name, rows, cols);
    taken_.insert(name);
    if (!is_weight(stored.dtype))
      throw bad_input("{}: tensor '{}' is {}; allowed: f32, bf16, f16", files_.name, name, name_of(stored.dtype));
    if (stored.dtype == dtype_) return stored;
    const Tensor converted = arena_->tensor(rows, cols, dtype_);
    copy(converted, stored);
    return converted;
  }

  SubblockWeights take_subblock(int64_t layer, Subblock subblock, const Choice& choice, const ModelConfig& config) {
    SubblockWeights weights{.choice = choice, .norm = {}, .params = {}};
    if (choice.variant->no_op) return weights;
    weights.norm = take(norm_name(layer, subblock), 1, config.hidden_size);
    for (const ParamSpec& p : choice.variant->params({config, choice.size}))
      weights.params.emplace_back(take(param_name(layer, subblock, p.name), p.rows, p.cols));
    return weights;
  }

  /// What owns the weights, after the last was taken. Refuses a tensor that nobody took.
  std::vector<std::shared_ptr<void>> finish() {
    for (const auto& [name, t] : files_.tensors)
      if (!taken_.contains(name) && !is_redundant(name)) refuse_extra(name);
    if (arena_) files_.memory.push_back(arena_);
    return std::move(files_.memory);
  }

 private:
  Tensor find(const std::string& name, int64_t rows, int64_t cols) const try {
    return files_.at(name, rows, cols);
  } catch (const Error& e) {
    throw bad_input("{}; config.json asks for it", e.what());
  }

  DType wanted(std::optional<DType> dtype) const {
    if (dtype) return *dtype;
    for (const auto& [name, t] : files_.tensors)
      if (t.dtype != DType::bf16 && !is_redundant(name)) return DType::f32;
    return DType::bf16;
  }

  /// Old checkpoints store the frequencies of RoPE, which the config gives; some store a tied head.
  bool is_redundant(const std::string& name) const {
    if (name.ends_with(".self_attn.rotary_emb.inv_freq")) return true;
    const auto embedding = files_.tensors.find("model.embed_tokens.weight");
    if (name != "lm_head.weight" || embedding == files_.tensors.end()) return false;
    const Tensor a = files_.tensors.at(name), b = embedding->second;
    return a.dtype == b.dtype && a.same_shape(b) && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
  }

  [[noreturn]] void refuse_extra(const std::string& name) const {
    if (name == "lm_head.weight")
      throw bad_input("{}: lm_head.weight is stored, and not as the embedding, though tie_word_embeddings is true",
                      files_.name);
    const std::vector<std::string> known(taken_.begin(), taken_.end());
    const std::string nearest = nearest_name(name, known);
    throw bad_input("{}: tensor '{:.100}' belongs to no part of the model that config.json describes{}", files_.name,
                    name, nearest.empty() ? "" : fmt::format("; the nearest that does is '{}'", nearest));
  }

  SafeTensors files_;
  DType dtype_;
  std::shared_ptr<Arena> arena_;
  std::set<std::string> taken_;
};

bool lie_side_by_side(Tensor above, Tensor below) {
  return above.contiguous() && static_cast<const char*>(above.data) + above.bytes() == below.data;
}

/// The tensors of a subblock in the order of the file. To the subblock, input parameters that lie side by side in
/// memory are one matrix; so they do in the file, and the others stand there the other way round. The loaded model then
/// computes the same products as this one, and its logits are the same bit for bit.
std::vector<NamedTensor> file_order(int64_t layer, Subblock subblock, const SubblockWeights& weights,
                                    const ModelConfig& config) {
  std::vector<NamedTensor> tensors;
  if (weights.choice.variant->no_op) return tensors;
  const std::vector<ParamSpec> specs = weights.choice.variant->params({config, weights.choice.size});
  ptrdiff_t at = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    const Tensor values = weights.params[i].values;
    at = i > 0 && specs[i].input && lie_side_by_side(weights.params[i - 1].values, values) ? at + 1 : 0;
    tensors.insert(tensors.begin() + at, {param_name(layer, subblock, specs[i].name), values});
  }
  tensors.push_back({norm_name(layer, subblock), weights.norm});
  return tensors;
}

std::vector<std::vector<NamedTensor>> file_order(const Model& model) {
  std::vector<std::vector<NamedTensor>> groups{{{"model.embed_tokens.weight", model.embedding.values}}};
  for (size_t l = 0; l < model.blocks.size(); ++l)
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      groups.push_back(file_order(static_cast<int64_t>(l), s, model.blocks[l].of(s), model.config));
  groups.push_back({{"model.norm.weight", model.final_norm}});
  if (!model.config.tie_word_embeddings) groups.push_back({{"lm_head.weight", model.head.values}});
  return groups;
}

/// A folder is replaced only if nothing but a model can be lost.
void check_replaceable(const fs::path& folder) {
  std::error_code error;
  if (!fs::exists(folder, error) || fs::exists(folder / "config.json", error) || fs::is_empty(folder, error)) return;
  throw bad_input("{}: this folder is not empty and holds no model; give another, or delete it", folder.string());
}

void copy_tokenizer(const fs::path& to, const fs::path& from) {
  std::error_code error;
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"})
    if (fs::exists(from / name, error)) write_file_atomically(to / name, MappedFile(from / name).bytes());
}

}  // namespace

Model load_model(const fs::path& folder, std::optional<DType> dtype) {
  const ModelDescription description = read_config(folder);
  const ModelConfig& config = description.config;
  WeightReader reader(read_safetensors_folder(folder), dtype);
  Model model{.config = config,
              .dtype = reader.dtype(),
              .embedding = reader.take("model.embed_tokens.weight", config.vocab_size, config.hidden_size),
              .head = {},
              .final_norm = reader.take("model.norm.weight", 1, config.hidden_size),
              .blocks = {},
              .memory = {}};
  for (const BlockChoice& choice : description.architecture) {
    const auto layer = static_cast<int64_t>(model.blocks.size());
    model.blocks.push_back({reader.take_subblock(layer, Subblock::attention, choice.attention, config),
                            reader.take_subblock(layer, Subblock::ffn, choice.ffn, config)});
  }
  model.head = config.tie_word_embeddings
                   ? model.embedding
                   : Weight(reader.take("lm_head.weight", config.vocab_size, config.hidden_size));
  model.memory = reader.finish();
  return model;
}

void save_model(const fs::path& folder, const Model& model, const SaveOptions& options) {
  check_replaceable(folder);
  AtomicFolder files(folder);
  write_safetensors_folder(files.path(), file_order(model), options.max_shard_bytes);
  write_file_atomically(files.path() / "config.json", config_json(model.config, model.architecture(), model.dtype));
  if (!options.tokenizer_from.empty()) copy_tokenizer(files.path(), options.tokenizer_from);
  files.commit();
}

}  // namespace tangram
