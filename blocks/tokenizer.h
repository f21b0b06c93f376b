#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "blocks/bpe.h"
#include "blocks/split_pattern.h"
#include "blocks/word_cache.h"

namespace tangram {

struct Token {
  std::string text;      ///< as tokenizer.json spells it; empty: no token has this id
  std::string bytes;     ///< what it stands for in decoded text
  bool partial = false;  ///< `bytes` may be a part of a character: byte-level tokens, and <0x0A> where bytes fall back
  bool special = false;  ///< control, not text: <s>, <|eot_id|>
};

/// Finds tokens by their whole text, the longest where several begin at one place.
struct TokenFinder {
  std::vector<std::pair<std::string, int32_t>> tokens;  ///< text and id, sorted
  std::array<bool, 256> begins{};                       ///< whether a token begins with the byte
};

/// One step of the normalizer: replaces every `from` by `to`; without `from`, puts `to` before a text (not an empty
/// one).
struct Rewrite {
  std::optional<std::string> from;
  std::string to;
};

/// `text` after all the steps. Throws Error if it grows over 2^30 bytes.
std::string rewrite(std::string_view text, std::span<const Rewrite> steps);

/// The pre_tokenizer that writes spaces as a character of their own.
struct Metaspace {
  enum class Prepend { never, first, always };
  std::string replacement;  ///< for a space: "▁"
  Prepend prepend;          ///< puts one before a text that has none there; `first`: only at the start of the input
  bool split;               ///< cuts before each
};

/// Places where a text that no expression cuts can be cut without changing its ids, which keeps words short enough to
/// come again.
struct WordMarks {
  std::string before;              ///< "▁": before the first of those beside each other; empty: not there
  std::array<bool, 128> around{};  ///< before and after these characters, which merge with nothing: Llama 2's newline
};

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <class T>
using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

/// A tokenizer.json of Hugging Face `tokenizers` with a BPE model, read only. Encoding runs through the fields from top
/// to bottom, decoding uses the last ones.
struct Tokenizer {
  std::vector<Token> tokens;    ///< (V) by id; the size is the vocabulary's, ids without a token included
  int32_t bos_id = -1;          ///< of tokenizer_config.json, else the only id in `prefix`; -1: none
  int32_t eos_id = -1;          ///< of tokenizer_config.json; -1: none
  std::vector<int32_t> prefix;  ///< what add_bos puts before the text, as the post_processor says

  TokenFinder added;                   ///< added_tokens found in the text as it is (`normalized: false`)
  std::vector<Rewrite> normalizer;     ///< applied to each text between them
  TokenFinder added_normalized;        ///< added_tokens found after that
  std::optional<Metaspace> metaspace;  ///< the pre_tokenizer Metaspace, or
  bool add_prefix_space = false;       ///< that of ByteLevel, which puts a space before a text that has none there
  WordMarks marks;                     ///< where text may be cut, too, since no merge reaches over it
  std::vector<SplitPattern> splits;    ///< cut the text into words: Split, and ByteLevel's own expression
  bool byte_level = false;             ///< words are bytes and not characters (Llama 3)

  StringMap<int32_t> vocab;  ///< ids of words and characters; of bytes if byte_level
  Merges merges;
  bool ignore_merges = false;  ///< a word that is a token is not put together from merges
  bool byte_fallback = false;  ///< an unknown character becomes its bytes' tokens (Llama 2)
  std::array<int32_t, 256>
      byte_tokens;        ///< of the bytes if byte_level (-1: none), of <0x00> to <0xFF> if byte_fallback
  int32_t unk_id = -1;    ///< of an unknown character; -1: it is refused
  bool fuse_unk = false;  ///< unknown characters beside each other become one unk_id

  std::string strip;        ///< decoder Strip: a character, removed from the start of the text
  int64_t strip_count = 0;  ///< at most so often
};

/// Reads `path`, a tokenizer.json or the folder of one, and the tokenizer_config.json beside it if there is one.
///
/// Supported (the key is named where something else is found, and nothing is guessed):
///   model           BPE; merges as "a b" or ["a", "b"]; byte_fallback, unk_token, fuse_unk, ignore_merges; without
///                   dropout, continuing_subword_prefix and end_of_word_suffix
///   normalizer      null, Prepend, Replace (of a String), Sequence
///   pre_tokenizer   null, ByteLevel, Sequence of Split (Regex, Isolated) before ByteLevel, Metaspace
///   post_processor  null, TemplateProcessing, ByteLevel, Sequence; what a template puts after the text is left out:
///                   only the caller knows whether the text is at its end
///   decoder         ByteLevel with that pre_tokenizer; else null, Fuse, or Sequence of Replace, ByteFallback, Fuse and
///                   Strip (of the start) in this order. null joins the tokens without spaces between, as Fuse does
///   added_tokens    without lstrip, rstrip and single_word
/// truncation and padding are ignored: they belong to a caller.
///
/// The smallest one, a symbol a character: {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
/// "decoder": {"type": "Fuse"}}.
///
/// Throws Error if a file is missing, over 64 MiB, no JSON, nested too deep, uses what is not supported, or contradicts
/// itself (an id twice, an id of 2^20 or more, a merge of unknown tokens). Limits: 32 levels, 16 steps in a Sequence,
/// 64 bytes for what is put into texts, 1024 for an added token, 4096 for an expression, 256 MiB for all decoded
/// tokens.
Tokenizer load_tokenizer(const std::filesystem::path& path);

/// The same from the contents of both files (`config` {} where there is none); `name` is that of the first, for
/// messages.
Tokenizer parse_tokenizer(std::string_view json, std::string_view config, const std::string& name);

struct EncodeOptions {
  bool add_bos = true;        ///< begin with Tokenizer::prefix
  bool parse_special = true;  ///< special tokens spelled out in the text become their ids; false: they are text
};

/// Encodes texts one after the other. Faster than `encode` where there are many: it keeps the words that it has seen.
/// For one thread.
class Encoder {
 public:
  static constexpr size_t kCachedWords = 1 << 16;  ///< 4 MiB

  /// `tokenizer` must outlive this.
  explicit Encoder(const Tokenizer& tokenizer, size_t cached_words = kCachedWords);

  /// The ids of `input`, the same as Hugging Face `tokenizers` gives. Throws Error with the byte offset if the text is
  /// not UTF-8 (replace_invalid_utf8 makes it that, as the reference's callers do) or has a character that is not in
  /// the vocabulary (and no unk_token), and if it is longer than 2^30 bytes.
  std::vector<int32_t> encode(std::string_view input, const EncodeOptions& options = {});

 private:
  void encode_piece(std::string_view text, bool first);
  void encode_word(std::string_view word);
  /// Fills symbols_ with the smallest tokens of the word.
  void spell(std::string_view word);
  int32_t symbol_id(std::string_view symbol) const;
  [[noreturn]] void refuse_unknown(std::string_view symbol) const;

  const Tokenizer* t_;
  WordCache cache_;
  std::array<int32_t, 128> ascii_;  // ids of characters; -1: not in the vocabulary
  // Of one call:
  std::string_view input_;
  std::string_view source_;  // the part of input_ that is being encoded
  std::vector<Splitter> splitters_;
  std::vector<std::string_view> words_;
  std::vector<int32_t> symbols_;
  std::vector<int32_t> ids_;
};

/// The same for one text.
std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text, const EncodeOptions& options = {});

/// The text of `ids`, always UTF-8: U+FFFD stands for bytes that are none. Throws Error if an id has no token.
///   skip_special  leave special tokens out
std::string decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special = true);

/// Decodes a text while it is generated. The pieces together are decode(ids), with one exception: where byte tokens
/// beside each other are not UTF-8, decode gives U+FFFD for each and this only for those in no character.
class StreamDecoder {
 public:
  /// `tokenizer` must outlive this.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special), strip_left_(tokenizer.strip_count) {}

  /// The text that `id` completes; bytes of an incomplete character are held back.
  std::string next(int32_t id);
  /// What is held back, at the end of the text: U+FFFD if anything is.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  int64_t strip_left_;
  std::string held_;  // bytes of the characters that are not complete
};

}  // namespace tangram
