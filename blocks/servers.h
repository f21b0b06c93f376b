#pragma once
#include <span>
#include <string>
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
/// Each of them once, in the order of `names`; `all` stands for all_servers().
std::vector<const Server*> servers_called(std::span<const std::string> names);

/// Why no model with a subblock of this name (`gqa_4`, `linear`) runs on a server: neither as it is nor in a form that
/// computes the same. Empty where it runs. Needs no model, so that a search can ask it of a score table.
std::string obstacle_of(const Server& server, Subblock subblock, std::string_view name);

/// KV heads of full attention by its name: 4 of `gqa_4`; 0 of others. Where a server does not take mixed_kv_heads, all
/// blocks that have some have to have the same.
int64_t kv_heads_of(std::string_view attention);

/// What a server makes of an architecture. It runs it exactly if none of its subblocks has an obstacle_of, its KV heads
/// are one number where they have to be, and it has no more than layers_at_most.
struct ServerCheck {
  FormPlan plan;                      ///< what is written for it; `changes` are exact
  std::vector<FormChange> obstacles;  ///< that no exact form gets around; empty: it runs the model

  bool runs() const { return obstacles.empty(); }
};

ServerCheck check_server(const Server& server, const Architecture& architecture, const ModelConfig& config);

}  // namespace tangram
