#pragma once
#include <filesystem>
#include <functional>
#include <optional>

#include "blocks/model.h"
#include "blocks/safetensors.h"

namespace tangram {

/// A Hugging Face folder whose model is read part by part: config.json as read_config reads it, and the tensors of F32,
/// F16 or BF16 that it names, in one file or in shards. Weights that are stored in the wanted dtype are views of the
/// mapped files, read-only and without a copy, and live as long as this object; others are converted into the memory
/// that the caller gives.
class CheckpointReader {
 public:
  /// Reads no weights yet. Without `dtype` they become bf16 if everything is stored so, and f32 otherwise, which holds
  /// any of them exactly. Throws Error (bad_input) naming the file, the key or tensor, what was found and what is
  /// expected, if a tensor is missing, of another shape, or belongs to no part of the model.
  explicit CheckpointReader(const std::filesystem::path& folder, std::optional<DType> dtype = std::nullopt);

  const ModelConfig& config() const { return config_; }
  const Architecture& architecture() const { return architecture_; }
  DType dtype() const { return dtype_; }
  /// What owns the mapped files, for views that outlive this object.
  const std::vector<std::shared_ptr<void>>& memory() const { return files_.memory; }

  // Parts of the model; `memory` is the host's, or a planner.
  Weight embedding(Arena& memory) const;
  BlockWeights block(int64_t layer, Arena& memory) const;
  Tensor final_norm(Arena& memory) const;
  Weight head(Arena& memory) const;  ///< of a model whose head is not tied to its embedding

  /// Advice to the system: block `layer` will be read soon; nobody reads it for now. Out of range: nothing.
  void prefetch(int64_t layer) const;
  void release(int64_t layer) const;

 private:
  Tensor stored(const std::string& name, int64_t rows, int64_t cols) const;
  Tensor take(const std::string& name, int64_t rows, int64_t cols, Arena& memory) const;
  SubblockWeights subblock(int64_t layer, Subblock subblock, Arena& memory) const;
  bool is_redundant(const std::string& name) const;
  void check_tensors() const;
  void for_each_tensor(int64_t layer, const std::function<void(Tensor)>& visit) const;

  ModelConfig config_;
  Architecture architecture_;
  SafeTensors files_;
  DType dtype_;
};

/// The whole model of such a folder. Throws as CheckpointReader does.
Model load_model(const std::filesystem::path& folder, std::optional<DType> dtype = std::nullopt);

struct SaveOptions {
  std::filesystem::path tokenizer_from;  ///< a folder whose tokenizer and generation files are copied; or empty
  int64_t max_shard_bytes = int64_t{5} << 30;
  bool release = false;  ///< what was written is not read again: mapped weights take no memory then
};

/// Writes a model as a Hugging Face folder that load_model loads again bit for bit: a plain LlamaForCausalLM if every
/// block is the teacher's, else a DeciLMForCausalLM. The folder appears when it is complete. One that is there already
/// is replaced if it is empty or holds a model; otherwise throws Error.
void save_model(const std::filesystem::path& folder, const Model& model, const SaveOptions& options = {});

}  // namespace tangram
