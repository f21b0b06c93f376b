#pragma once
#include <filesystem>
#include <optional>
#include <vector>

#include "blocks/model.h"

namespace tangram {

/// The weights of a replacement, ready to stand in the teacher's place. A plain variant shares the teacher's norm, which its
/// file does not repeat; a pair has norms of its own.
struct LibraryEntry {
  Replacement replacement;
  std::optional<SubblockWeights> attention, ffn;
  std::vector<std::shared_ptr<void>> memory;

  const std::optional<SubblockWeights>& of(Subblock s) const { return s == Subblock::attention ? attention : ffn; }
  std::optional<SubblockWeights>& of(Subblock s) { return s == Subblock::attention ? attention : ffn; }
};

/// File of a replacement below the library's folder: `<first>-<last>/<name>.safetensors`.
std::filesystem::path library_path(const std::filesystem::path& library, const Replacement& replacement);

/// A subblock that needs no training and no file: `no_op`, and the teacher's own.
bool is_untrained(Subblock subblock, const Choice& choice, const ModelConfig& config);

void save_entry(const std::filesystem::path& library, const LibraryEntry& entry);

/// Maps the entry of a replacement. What needs no training comes from the teacher. Throws Error naming the file and what
/// is wrong with it.
LibraryEntry load_entry(const std::filesystem::path& library, const Replacement& replacement, const Model& teacher);

/// The teacher with the block's subblocks replaced; the weights are shared, not copied.
void apply_entry(Model& model, const LibraryEntry& entry);

/// The student that an architecture describes: for each layer the entry of the pair where `pairs` has one, otherwise of
/// each subblock alone.
Model assemble(const Model& teacher, const Architecture& architecture, const std::vector<Replacement>& pairs,
               const std::filesystem::path& library);

}  // namespace tangram
