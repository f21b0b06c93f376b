#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "blocks/model.h"

/// What a model's parts are called and how they are laid out in GGUF files of the architectures `deci` and `llama`.
namespace tangram {

/// silu(b) = b / (1 + e^-b) = 1: the gate's bias where a linear FFN is written as a SwiGLU.
inline constexpr float kSiluOne = 1.278464542761074f;

inline constexpr const char* kRopeFactors = "rope_freqs.weight";

/// Tensor of a parameter, `blk.3.attn_q.weight`.
std::string gguf_name(int64_t layer, std::string_view parameter);
std::string gguf_norm_name(int64_t layer, Subblock subblock);

/// Whether a parameter's rows are rotated by position, and the row of the checkpoint that stands in row r here: the
/// checkpoint rotates channels i and i + D/2 of a head together, GGUF 2i and 2i + 1.
bool is_rotated(std::string_view parameter);
int64_t checkpoint_row(int64_t r, int64_t head_dim);

/// Divisors of the rotations' speeds, as the tensor kRopeFactors has them (D/2).
std::vector<float> rope_factors(const ModelConfig& config);

}  // namespace tangram
