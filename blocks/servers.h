#pragma once
#include <span>
#include <string_view>
#include <vector>

#include "blocks/reader_forms.h"

namespace tangram {

enum class ModelFormat : uint8_t { huggingface, gguf };

/// A program that serves or trains models, and which irregular ones it runs as they were read in its sources in August
/// 2026.
struct Server {
  std::string_view name;
  ModelFormat format;
  std::string_view version;  ///< whose sources those were
  ReaderForms forms;
  bool linear_ffn = false;     ///< as it is
  bool biased_ffn = false;     ///< FFNs with a biased gate, as which GGUF's writer writes linear ones
  bool mixed_kv_heads = true;  ///< attention with different numbers of KV heads
  int64_t layers_at_most = 4096;
  std::string_view remark = {};  ///< what a user of it has to know
};

std::span<const Server> all_servers();

/// The server called `name`. Throws Error (bad_input) naming the known ones.
const Server& server_called(std::string_view name);

/// What a server makes of an architecture.
struct ServerCheck {
  FormPlan plan;                      ///< what is written for it; `changes` are exact
  std::vector<FormChange> obstacles;  ///< that no exact form gets around; empty: it runs the model

  bool runs() const { return obstacles.empty(); }
};

ServerCheck check_server(const Server& server, const Architecture& architecture, const ModelConfig& config);

}  // namespace tangram
