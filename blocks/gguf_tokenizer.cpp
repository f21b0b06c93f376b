#include <algorithm>

#include "blocks/gguf_model.h"

namespace tangram {
namespace {

/// Expressions that readers know by a name, and whether words that are tokens skip the merges there.
struct GgufSplit {
  const char* name;
  bool ignore_merges;
  std::string_view pattern;
};
constexpr GgufSplit kGgufSplits[] = {
    {"llama-bpe", true, kLlama3Pattern},
    {"qwen2", false, kQwen2Pattern},
    {"gpt-2", false, kGpt2Pattern},
};

enum class TokenType : int64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

bool is_added(const Tokenizer& t, int32_t id) {
  for (const TokenFinder* finder : {&t.added, &t.added_normalized})
    for (const auto& [text, added] : finder->tokens)
      if (added == id) return true;
  return false;
}

TokenType type_of(const Tokenizer& t, int32_t id) {
  const Token& token = t.tokens[static_cast<size_t>(id)];
  if (token.text.empty()) return TokenType::unused;
  if (id == t.unk_id) return TokenType::unknown;
  if (token.special) return TokenType::control;
  if (is_added(t, id)) return TokenType::user_defined;
  if (t.byte_fallback && std::find(t.byte_tokens.begin(), t.byte_tokens.end(), id) != t.byte_tokens.end())
    return TokenType::byte;
  return TokenType::normal;
}

/// GPT-2's spelling of an ASCII character, which is itself where it prints.
std::string spelling(char c) {
  if (c > 0x20 && c < 0x7F) return std::string(1, c);
  const int code_point = c == 0x7F ? 0x121 : 0x100 + c;
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

/// Every token but the special ones is one ASCII character, and nothing joins them: how text is split cannot matter.
bool is_of_characters(const Tokenizer& t) {
  if (!t.merges.empty() || !t.normalizer.empty() || t.metaspace || t.add_prefix_space) return false;
  return std::all_of(t.tokens.begin(), t.tokens.end(), [](const Token& token) {
    return token.special || token.text.empty() || (token.bytes.size() == 1 && uint8_t(token.bytes[0]) < 0x80);
  });
}

class TokenizerKeys {
 public:
  TokenizerKeys(const Tokenizer& tokenizer, int64_t vocab_size) : t_(tokenizer) {
    if (std::ssize(t_.tokens) > vocab_size)
      throw bad_input("the tokenizer has {} tokens, the model {}", t_.tokens.size(), vocab_size);
    for (int64_t id = 0; id < vocab_size; ++id) {
      const bool known = id < std::ssize(t_.tokens) && !t_.tokens[static_cast<size_t>(id)].text.empty();
      texts_.push_back(known ? t_.tokens[static_cast<size_t>(id)].text : fmt::format("[PAD{}]", id));
      types_.push_back(static_cast<int64_t>(known ? type_of(t_, static_cast<int32_t>(id)) : TokenType::unused));
    }
  }

  GgufMetadata keys() {
    if (t_.byte_level)
      add_byte_level();
    else if (t_.byte_fallback)
      add_byte_fallback();
    else if (is_of_characters(t_))
      add_characters();
    else
      throw bad_input("it is neither byte-level, nor falls back to bytes, nor has single characters only");
    add("token_type", types_);
    if (t_.bos_id >= 0) add("bos_token_id", int64_t{t_.bos_id});
    if (t_.eos_id >= 0) add("eos_token_id", int64_t{t_.eos_id});
    if (t_.unk_id >= 0) add("unknown_token_id", int64_t{t_.unk_id});
    add("add_bos_token", !t_.prefix.empty());
    return std::move(keys_);
  }

 private:
  void add(const std::string& key, GgufValue value) { keys_.emplace_back("tokenizer.ggml." + key, std::move(value)); }

  const std::string& text(int32_t id) const { return t_.tokens[static_cast<size_t>(id)].text; }

  void add_byte_level() {
    const GgufSplit* known = nullptr;
    for (const GgufSplit& split : kGgufSplits)
      if (t_.splits.size() == 1 && t_.splits[0].text() == split.pattern) known = &split;
    if (!known && t_.merges.empty() && t_.splits.empty()) known = &kGgufSplits[2];
    if (!known)
      throw bad_input("the expression that cuts its text into words is none that readers of GGUF know by name: {}",
                      t_.splits.empty() ? "(none)" : t_.splits[0].text());
    if (t_.ignore_merges != known->ignore_merges && !t_.merges.empty())
      throw bad_input("ignore_merges is {}, and readers of GGUF take it for {} with this expression", t_.ignore_merges,
                      known->ignore_merges);
    if (!t_.normalizer.empty() || t_.add_prefix_space)
      throw bad_input("it changes the text before splitting it, which GGUF cannot say of byte-level ones");
    add("model", "gpt2"), add("pre", known->name), add("tokens", texts_);
    std::vector<std::string> merges;
    for (const auto& [left, right, merge] : t_.merges.by_rank()) merges.push_back(text(left) + " " + text(right));
    add("merges", merges);
  }

  /// Readers join the pair whose token has the highest score: that of its first merge.
  void add_byte_fallback() {
    if (t_.ignore_merges) throw bad_input("ignore_merges, which GGUF cannot say of tokenizers with byte fallback");
    std::vector<double> scores(texts_.size(), 0);
    for (const auto& [left, right, merge] : t_.merges.by_rank())
      if (double& score = scores[static_cast<size_t>(merge.token)]; score == 0) score = -1.0 - merge.rank;
    const bool by_normalizer =
        std::any_of(t_.normalizer.begin(), t_.normalizer.end(), [](const auto& r) { return !r.from; });
    add("model", "llama"), add("pre", "default"), add("tokens", texts_), add("scores", scores);
    add("add_space_prefix", by_normalizer || (t_.metaspace && t_.metaspace->prepend != Metaspace::Prepend::never));
  }

  void add_characters() {
    for (size_t id = 0; id < t_.tokens.size(); ++id)
      if (const Token& token = t_.tokens[id]; !token.special && !token.text.empty())
        texts_[id] = spelling(token.bytes[0]);
    add("model", "gpt2"), add("pre", "gpt-2"), add("tokens", texts_), add("merges", std::vector<std::string>{});
  }

  const Tokenizer& t_;
  std::vector<std::string> texts_;
  std::vector<int64_t> types_;
  GgufMetadata keys_;
};

}  // namespace

GgufMetadata gguf_tokenizer(const Tokenizer& tokenizer, int64_t vocab_size) try {
  return TokenizerKeys(tokenizer, vocab_size).keys();
} catch (const Error& e) {
  throw bad_input("GGUF cannot hold this tokenizer: {}", e.what());
}

}  // namespace tangram
