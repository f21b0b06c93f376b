#pragma once
#include <filesystem>
#include <optional>

#include "blocks/model.h"

namespace tangram {

/// Loads a Hugging Face folder: config.json as read_config reads it, and the tensors of F32, F16 or BF16 that it names,
/// in one file or in shards. Weights that are stored in the wanted dtype stay in the mapped files, read-only and
/// without a copy; others are converted. Without `dtype` the model is bf16 if everything is stored so, and f32
/// otherwise, which holds any of them exactly.
///
/// Throws Error (bad_input) naming the file, the key or tensor, what was found and what is expected, if a tensor is
/// missing, of another shape, or belongs to no part of the model.
Model load_model(const std::filesystem::path& folder, std::optional<DType> dtype = std::nullopt);

struct SaveOptions {
  std::filesystem::path tokenizer_from;  ///< a folder whose tokenizer and generation files are copied; or empty
  int64_t max_shard_bytes = int64_t{5} << 30;
};

/// Writes a model as a Hugging Face folder that load_model loads again bit for bit: a plain LlamaForCausalLM if every
/// block is the teacher's, else a DeciLMForCausalLM. The folder appears when it is complete. One that is there already
/// is replaced if it is empty or holds a model; otherwise throws Error.
void save_model(const std::filesystem::path& folder, const Model& model, const SaveOptions& options = {});

}  // namespace tangram
