#include "blocks/checkpoint.h"

#include <algorithm>
#include <cstring>

#include "blocks/config_json.h"
#include "blocks/file.h"
#include "blocks/safetensors.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr const char *kEmbeddingName = "model.embed_tokens.weight", *kHeadName = "lm_head.weight";

bool is_weight(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

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

CheckpointReader::CheckpointReader(const fs::path& folder, std::optional<DType> dtype) {
  ModelDescription description = read_config(folder);
  config_ = description.config;
  architecture_ = std::move(description.architecture);
  files_ = read_safetensors_folder(folder);
  dtype_ = dtype.value_or(DType::bf16);
  if (!dtype)
    for (const auto& [name, t] : files_.tensors)
      if (t.dtype != DType::bf16 && !is_redundant(name)) dtype_ = DType::f32;
  check_tensors();
}

Weight CheckpointReader::embedding(Arena& memory) const {
  return take(kEmbeddingName, config_.vocab_size, config_.hidden_size, memory);
}

Tensor CheckpointReader::final_norm(Arena& memory) const {
  return take("model.norm.weight", 1, config_.hidden_size, memory);
}

Weight CheckpointReader::head(Arena& memory) const {
  return take(kHeadName, config_.vocab_size, config_.hidden_size, memory);
}

BlockWeights CheckpointReader::block(int64_t layer, Arena& memory) const {
  return {subblock(layer, Subblock::attention, memory), subblock(layer, Subblock::ffn, memory)};
}

SubblockWeights CheckpointReader::subblock(int64_t layer, Subblock subblock, Arena& memory) const {
  const Choice choice = architecture_.at(static_cast<size_t>(layer)).of(subblock);
  SubblockWeights weights{.choice = choice, .norm = {}, .params = {}};
  if (choice.variant->no_op) return weights;
  weights.norm = take(norm_name(layer, subblock), 1, config_.hidden_size, memory);
  for (const ParamSpec& p : choice.variant->params({config_, choice.size}))
    weights.params.emplace_back(take(param_name(layer, subblock, p.name), p.rows, p.cols, memory));
  return weights;
}

Tensor CheckpointReader::stored(const std::string& name, int64_t rows, int64_t cols) const {
  const Tensor found = [&] {
    try {
      return files_.at(name, rows, cols);
    } catch (const Error& e) {
      throw bad_input("{}; config.json asks for it", e.what());
    }
  }();
  if (!is_weight(found.dtype))
    throw bad_input("{}: tensor '{}' is {}; allowed: f32, bf16, f16", files_.name, name, name_of(found.dtype));
  return found;
}

Tensor CheckpointReader::take(const std::string& name, int64_t rows, int64_t cols, Arena& memory) const {
  const Tensor found = stored(name, rows, cols);
  if (found.dtype == dtype_) return found;
  const Tensor converted = memory.tensor(rows, cols, dtype_);
  if (!memory.is_planner()) copy(converted, found);
  return converted;
}

/// Old checkpoints store the frequencies of RoPE, which the config gives; some store a tied head.
bool CheckpointReader::is_redundant(const std::string& name) const {
  if (name.ends_with(".self_attn.rotary_emb.inv_freq")) return true;
  const auto embedding = files_.tensors.find(kEmbeddingName);
  if (name != kHeadName || embedding == files_.tensors.end()) return false;
  const Tensor a = files_.tensors.at(name), b = embedding->second;
  return a.dtype == b.dtype && a.same_shape(b) && std::memcmp(a.data, b.data, static_cast<size_t>(a.bytes())) == 0;
}

void CheckpointReader::check_tensors() const {
  std::vector<std::string> known;
  const auto check = [&](const std::string& name, int64_t rows, int64_t cols) {
    stored(name, rows, cols);
    known.push_back(name);
  };
  const int64_t H = config_.hidden_size;
  check(kEmbeddingName, config_.vocab_size, H);
  check("model.norm.weight", 1, H);
  for (size_t l = 0; l < architecture_.size(); ++l)
    for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
      const Choice& choice = architecture_[l].of(s);
      if (choice.variant->no_op) continue;
      check(norm_name(static_cast<int64_t>(l), s), 1, H);
      for (const ParamSpec& p : choice.variant->params({config_, choice.size}))
        check(param_name(static_cast<int64_t>(l), s, p.name), p.rows, p.cols);
    }
  if (!config_.tie_word_embeddings) check(kHeadName, config_.vocab_size, H);

  std::sort(known.begin(), known.end());
  for (const auto& [name, t] : files_.tensors) {
    if (std::binary_search(known.begin(), known.end(), name) || is_redundant(name)) continue;
    if (name == kHeadName)
      throw bad_input("{}: lm_head.weight is stored, and not as the embedding, though tie_word_embeddings is true",
                      files_.name);
    const std::string nearest = nearest_name(name, known);
    throw bad_input("{}: tensor '{:.100}' belongs to no part of the model that config.json describes{}", files_.name,
                    name, nearest.empty() ? "" : fmt::format("; the nearest that does is '{}'", nearest));
  }
}

void CheckpointReader::prefetch(int64_t layer) const {
  for_each_tensor(layer, [](Tensor t) { advise_soon(t.data, t.bytes()); });
}

void CheckpointReader::release(int64_t layer) const {
  for_each_tensor(layer, [](Tensor t) { advise_done(t.data, t.bytes()); });
}

void CheckpointReader::for_each_tensor(int64_t layer, const std::function<void(Tensor)>& visit) const {
  if (layer < 0 || layer >= config_.num_hidden_layers) return;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  for (auto t = files_.tensors.lower_bound(prefix); t != files_.tensors.end() && t->first.starts_with(prefix); ++t)
    visit(t->second);
}

Model load_model(const fs::path& folder, std::optional<DType> dtype) {
  const CheckpointReader reader(folder, dtype);
  const auto load = [&](Arena& memory) {
    Model model{.config = reader.config(),
                .dtype = reader.dtype(),
                .embedding = reader.embedding(memory),
                .head = {},
                .final_norm = reader.final_norm(memory),
                .blocks = {},
                .memory = reader.memory()};
    for (int64_t l = 0; l < reader.config().num_hidden_layers; ++l) model.blocks.push_back(reader.block(l, memory));
    model.head = reader.config().tie_word_embeddings ? model.embedding : reader.head(memory);
    return model;
  };
  Arena planner = Arena::planner();
  Model model = load(planner);
  if (planner.used_bytes() == 0) return model;
  const auto arena = std::make_shared<Arena>(planner.used_bytes());
  model = load(*arena);
  model.memory.push_back(arena);
  return model;
}

void save_model(const fs::path& folder, const Model& model, const SaveOptions& options) {
  check_replaceable(folder);
  AtomicFolder files(folder);
  write_safetensors_folder(files.path(), file_order(model), options.max_shard_bytes, options.release);
  write_file_atomically(files.path() / "config.json", config_json(model.config, model.architecture(), model.dtype));
  if (!options.tokenizer_from.empty()) copy_tokenizer(files.path(), options.tokenizer_from);
  files.commit();
}

}  // namespace tangram
