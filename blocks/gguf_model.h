#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "blocks/gguf.h"
#include "blocks/reader_forms.h"
#include "blocks/tokenizer.h"

namespace tangram {

/// What llama.cpp gets right of the architecture `deci`: FFNs are absent only where attention is, the first block has
/// attention, the last an FFN.
inline constexpr ReaderForms kGgufForms{.linear_attention = true,
                                        .empty_blocks = false,
                                        .attention_alone = false,
                                        .ffn_alone_first = false,
                                        .idle_attention_is_linear = true,
                                        .idle_width = 32,
                                        .width_multiple = 1};
inline constexpr int64_t kGgufMostLayers = 512;

/// What stands in the way of writing an architecture as GGUF, by layer: windows, of which the format knows nothing.
/// Empty where nothing does.
std::vector<FormChange> gguf_obstacles(const Architecture& architecture);

struct GgufOptions {
  GgufType type = GgufType::bf16;        ///< of matrices; vectors are F32. Rows that Q8_0 cannot store become F16
  std::string name = {};                 ///< general.name
  const Tokenizer* tokenizer = nullptr;  ///< null: none is written
  std::string chat_template = {};        ///< Jinja
  int threads = 1;
  bool release = false;  ///< what was written is not read again: mapped weights take no memory then
};

/// Writes a model as one GGUF file of the architecture `deci` (github.com/ggml-org/llama.cpp, src/models/deci.cpp), or
/// of `llama` if all blocks are alike, whatever Llama it is: rows of q and k are in the order that rotates neighbouring
/// channels, the stretching of RoPE is the tensor rope_freqs, and blocks are in the forms of kGgufForms. A linear FFN W
/// is there as a SwiGLU of width H with
///
///   gate 0, gate bias b with silu(b) = 1, up W, down the unit matrix
///
/// Returns what is written differently. Throws Error (bad_input) naming layers and values that GGUF cannot hold: see
/// gguf_obstacles; more than 512 layers; weights beyond f16's range in F16 or Q8_0.
std::vector<FormChange> write_gguf_model(const std::filesystem::path& path, const Model& model,
                                         const GgufOptions& options);

/// A model from a GGUF file of the architecture `deci` or `llama`: bf16 if all matrices are BF16, f32 otherwise. FFNs
/// that write_gguf_model made of linear ones are linear again. Throws Error (bad_input) naming the file, and the key or
/// tensor, if it is none of these or has parts that blocks cannot be (biases, experts, other activations).
Model load_gguf_model(const std::filesystem::path& path);

/// The keys tokenizer.ggml.* of a tokenizer for a model of `vocab_size` tokens. Throws Error (bad_input) saying why if
/// readers would split text otherwise: byte-level BPE needs the expression of Llama 3, or no merges; others byte
/// fallback.
GgufMetadata gguf_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size);

}  // namespace tangram
