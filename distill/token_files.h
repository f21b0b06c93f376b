#pragma once
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "distill/token_shard.h"

namespace tangram {

/// What packed tokens were made from, as digests that stand in the files: tokens of another text or of another
/// tokenizer are never taken for these.
struct TokenOrigin {
  std::string tokenizer;
  std::optional<std::string> text;  ///< on loading, none: any text will do, as for shards that somebody else prepared
};

/// Writes a shard as a safetensors file with the tensors `tokens` (S, T), `first_segment` (S + 1), `segment_length`
/// (K), `segment_next` (K), all I32, and `weights` (S, T) F32 if it has any; the metadata holds the origin.
void save_shard(const std::filesystem::path& file, const TokenShard& shard, const TokenOrigin& origin);

/// Maps a file of save_shard, or all `.safetensors` files of a folder in the order of their names. Throws Error
/// (bad_input) naming the file if it is damaged, of another origin, or packed to another sequence length.
std::vector<TokenShard> load_shards(const std::filesystem::path& path, int64_t sequence_length,
                                    const TokenOrigin& origin);

/// Tokens of one document, with whatever the tokenizer puts before it.
using Encode = std::function<std::vector<int32_t>(std::string_view text)>;

inline constexpr int64_t kShardTokens = int64_t{1} << 26;  // 256 MiB in memory while it fills

/// Encodes the documents of `files` (see read_documents) and packs them into shards `folder`/tokens-00000.safetensors,
/// … of `shard_tokens`. The folder appears when all are written, and replaces one that was there. Tokens behind the
/// last whole sequence are left out. Throws Error (bad_input) with file and line if a document cannot be encoded, and
/// if all of them are too short for one sequence.
void prepare_tokens(const std::filesystem::path& folder, std::span<const std::filesystem::path> files,
                    const Encode& encode, int64_t sequence_length, const TokenOrigin& origin,
                    int64_t shard_tokens = kShardTokens);

}  // namespace tangram
