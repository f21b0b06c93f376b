#pragma once
#include <filesystem>
#include <functional>
#include <memory>

#include "blocks/model.h"
#include "distill/dataset.h"
#include "distill/teacher_layer.h"
#include "distill/teacher_source.h"

namespace tangram {

/// Activation statistics of one teacher layer, from which its students start.
struct LayerStatistics {
  SubblockStatistics attention, ffn;
  std::shared_ptr<void> memory;  ///< what owns the tensors

  const SubblockStatistics& of(Subblock s) const { return s == Subblock::attention ? attention : ffn; }
};

/// Statistics of every layer over all tokens of `batches`, one layer after the other: `sink` gets a layer as soon as it
/// is done. In memory stand one layer's statistics and the residual stream of all the tokens, (N, H).
void collect_statistics(const TeacherSource& teacher, std::span<const Batch> batches,
                        const std::function<void(int64_t layer, const LayerStatistics&)>& sink, Context& ctx);

/// Bytes of one layer's.
int64_t statistics_bytes(const ModelConfig& config);

/// A safetensors file with the tensors `attention.xx`, `attention.xy`, `ffn.xx`, `ffn.xy`, `ffn.hh`,
/// `ffn.contribution`.
void save_statistics(const std::filesystem::path& path, const LayerStatistics& statistics);
/// Maps such a file. Throws Error if its tensors are not those of a layer of `config`.
LayerStatistics load_statistics(const std::filesystem::path& path, const ModelConfig& config);

}  // namespace tangram
