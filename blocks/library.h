#pragma once
#include <filesystem>
#include <optional>
#include <vector>

#include "blocks/model.h"

namespace tangram {

/// The weights of a replacement, ready to stand in the teacher's place. A plain variant shares the teacher's norm,
/// which its file does not repeat; a pair or span has norms of its own.
struct LibraryEntry {
  Replacement replacement;
  std::optional<SubblockWeights> attention, ffn;
  std::vector<std::shared_ptr<void>> memory;  ///< what owns the weights, where it is not the teacher

  const std::optional<SubblockWeights>& of(Subblock s) const { return s == Subblock::attention ? attention : ffn; }
  std::optional<SubblockWeights>& of(Subblock s) { return s == Subblock::attention ? attention : ffn; }
};

/// File of a replacement below the library's folder: `<first>-<last>/<name>.safetensors`.
std::filesystem::path library_path(const std::filesystem::path& library, const Replacement& replacement);

/// Whether a replacement has something to train, and so a file. What has only `no_op` and the teacher's own subblock
/// alone have not.
bool needs_training(const Replacement& replacement, const ModelConfig& config);

/// Writes the entry's file: tensors `attention.<parameter>`, `ffn.<parameter>`, of a pair also
/// `<subblock>.norm.weight`.
void save_entry(const std::filesystem::path& library, const LibraryEntry& entry, const ModelConfig& config);

/// Maps the entry of a replacement; what needs no training comes from the teacher. Throws Error (bad_input) naming the
/// file if it is missing, damaged, of other shapes, or not in the teacher's dtype.
LibraryEntry load_entry(const std::filesystem::path& library, const Replacement& replacement, const Model& teacher);

/// The entry in `memory` of the context's device; on the CPU, the entry itself.
LibraryEntry move_entry(const LibraryEntry& entry, const ModelConfig& config, Arena& memory, Context& ctx);
/// Bytes that a replacement's entry takes there.
int64_t entry_bytes(const Replacement& replacement, const ModelConfig& config, DType dtype);

/// The teacher with these entries, whose weights are shared, not copied. Where a span stands for several layers the
/// student has one block, and `config.num_hidden_layers` says how many it has in all. Throws Error if two entries stand
/// for the same layer's subblock.
Model assemble(const Model& teacher, std::span<const LibraryEntry> entries);
/// The same with entries from a library.
Model assemble(const Model& teacher, std::span<const Replacement> replacements, const std::filesystem::path& library);

}  // namespace tangram
