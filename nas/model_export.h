#pragma once
#include <filesystem>
#include <span>
#include <string>

#include "blocks/model.h"
#include "blocks/servers.h"
#include "nas/config.h"
#include "nas/progress.h"

namespace tangram {

struct ExportOptions {
  std::filesystem::path tokenizer_from;  ///< a model folder whose tokenizer goes along
  std::string name;                      ///< of the model, for readers that show one
  int64_t max_shard_bytes = int64_t{5} << 30;
  int threads = 1;
  bool release = false;  ///< the model's files are not read again: its weights take no memory once they are written
};

/// Writes a model as a Hugging Face folder or a GGUF file, and says what is written differently from how it was
/// trained. Throws Error (bad_input) if the format cannot hold it.
void export_model(const std::filesystem::path& path, const Model& model, ExportFormat format,
                  const ExportOptions& options, Console& console);

/// What servers make of an architecture, one line or more each, for people.
std::string servers_text(std::span<const Server* const> servers, const Architecture& architecture,
                         const ModelConfig& config);

/// Layers as ranges: `0, 4-7`.
std::string layer_ranges(std::span<const int64_t> layers);

}  // namespace tangram
