#pragma once
#include <cstdint>
#include <string_view>

namespace tangram {

/// The expressions of pre_tokenizers that most models use, which have a matcher by hand.
enum class KnownSplit : uint8_t { none, llama3, qwen2, gpt2 };

inline constexpr std::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Which of them `pattern` is, character by character.
KnownSplit known_split(std::string_view pattern);

/// The length of the match that begins at byte `begin` of `text` (UTF-8, `begin` at a character): what PCRE2 finds
/// there, and never 0, since each of these expressions takes any character. O(n) for a match and what it looks at.
size_t match_known(KnownSplit split, std::string_view text, size_t begin);

}  // namespace tangram
