#pragma once
#include <filesystem>
#include <functional>

#include "blocks/model.h"

namespace tangram {

/// A teacher that is asked for one layer after the other, and so need not be in memory as a whole.
struct TeacherSource {
  ModelConfig config;
  DType dtype;
  /// x (N, H) = the embedding of tokens.
  std::function<void(Tensor x, std::span<const int32_t> tokens, Context&)> embed;
  /// The weights of a layer where the context computes, valid until the next call.
  std::function<const BlockWeights&(int64_t layer, Context&)> layer;
};

/// A model that is in memory, and has to stay there.
TeacherSource teacher_in_memory(const Model& teacher);

/// Its layers [begin, end) on the context's device, and the embedding where begin is 0; on the CPU the model's own.
TeacherSource teacher_part(const Model& teacher, int64_t begin, int64_t end, Context& ctx);

/// A Hugging Face folder of which one layer at a time is in memory, and the embedding only before the first one. While
/// one layer is at work, the system is asked to read the next from disk. Throws Error as CheckpointReader does, and
/// (bad_input) if a layer is not a plain Llama's.
TeacherSource streamed_teacher(const std::filesystem::path& folder, DType dtype);

/// A teacher of this shape without weights, for planning on a device.
TeacherSource planned_teacher(const ModelConfig& config, DType dtype, Device device);

}  // namespace tangram
