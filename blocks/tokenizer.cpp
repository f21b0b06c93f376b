#include "blocks/tokenizer.h"

#include <algorithm>

#include "blocks/unicode.h"
#include "kernels/error.h"

namespace tangram {
namespace {

constexpr size_t kMaxText = size_t(1) << 30;  // positions in a word are int32
constexpr size_t kMaxCachedWord = 64;
constexpr size_t kMaxCachedWords = 1 << 16;

// A stretch of text: an added token, or what stands between two of them (id -1).
struct Piece {
  std::string_view text;
  int32_t id;
};

// The longest token of `finder` at the start of `text`; null if there is none.
const std::pair<std::string, int32_t>* longest_token(const TokenFinder& finder, std::string_view text) {
  const std::pair<std::string, int32_t>* longest = nullptr;
  auto first = finder.tokens.begin(), last = finder.tokens.end();  // those that begin with text[0, i)
  for (size_t i = 0; i < text.size() && first != last; ++i) {
    const auto byte = [i](const auto& token) { return token.first.size() > i ? int(uint8_t(token.first[i])) : -1; };
    const int wanted = uint8_t(text[i]);
    first = std::partition_point(first, last, [&](const auto& token) { return byte(token) < wanted; });
    last = std::partition_point(first, last, [&](const auto& token) { return byte(token) == wanted; });
    if (first != last && first->first.size() == i + 1) longest = &*first;
  }
  return longest;
}

std::vector<Piece> cut_at_added_tokens(const Tokenizer& tokenizer, const TokenFinder& finder, std::string_view text,
                                       bool parse_special) {
  std::vector<Piece> pieces;
  size_t begin = 0;  // of the text since the last added token
  for (size_t i = 0; i < text.size();) {
    const auto* token = finder.begins[uint8_t(text[i])] ? longest_token(finder, text.substr(i)) : nullptr;
    if (!token) {
      ++i;
      continue;
    }
    const size_t end = i + token->first.size();
    if (parse_special || !tokenizer.tokens[token->second].special) {
      if (begin < i) pieces.push_back({text.substr(begin, i - begin), -1});
      pieces.push_back({text.substr(i, end - i), token->second});
      begin = end;
    }
    i = end;
  }
  if (begin < text.size()) pieces.push_back({text.substr(begin), -1});
  return pieces;
}

// Cuts `text` before every `mark`.
std::vector<std::string_view> cut_before(std::string_view text, std::string_view mark) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(mark, 1), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return words;
}

// One call of encode.
class Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, std::string_view input)
      : t_(tokenizer),
        input_(input),
        cached_(!tokenizer.splits.empty() || (tokenizer.metaspace && tokenizer.metaspace->split)) {
    for (const SplitPattern& pattern : tokenizer.splits) splitters_.emplace_back(pattern, input.size());
  }

  std::vector<int32_t> run(const EncodeOptions& options) {
    if (options.add_bos) ids_ = t_.prefix;
    for (const Piece& raw : cut_at_added_tokens(t_, t_.added, input_, options.parse_special)) {
      source_ = raw.text;
      if (raw.id >= 0) {
        ids_.push_back(raw.id);
        continue;
      }
      const std::string text = rewrite(raw.text, t_.normalizer);
      for (const Piece& piece : cut_at_added_tokens(t_, t_.added_normalized, text, options.parse_special)) {
        const bool first = raw.text.data() == input_.data() && piece.text.data() == text.data();
        if (piece.id >= 0)
          ids_.push_back(piece.id);
        else
          encode_piece(piece.text, first);
      }
    }
    return std::move(ids_);
  }

 private:
  const Tokenizer& t_;
  const std::string_view input_;
  std::string_view source_;  // the part of input_ that is being encoded
  const bool cached_;        // uncut, a text is one word, which does not come again
  std::vector<Splitter> splitters_;
  StringMap<std::vector<int32_t>> cache_;  // of short words, which come again
  std::vector<int32_t> symbols_;
  std::vector<int32_t> ids_;

  void encode_piece(std::string_view text, bool first) {
    std::string changed;
    std::vector<std::string_view> words{text};
    if (t_.metaspace) {
      const Metaspace& m = *t_.metaspace;
      changed = rewrite(text, std::array{Rewrite{" ", m.replacement}});
      const bool prepend = m.prepend == Metaspace::Prepend::always || (m.prepend == Metaspace::Prepend::first && first);
      if (prepend && !changed.starts_with(m.replacement)) changed.insert(0, m.replacement);
      words = m.split ? cut_before(changed, m.replacement) : std::vector<std::string_view>{changed};
    } else if (t_.add_prefix_space && !text.starts_with(' ')) {
      changed.append(" ").append(text);
      words = {changed};
    }
    for (Splitter& splitter : splitters_) {
      std::vector<std::string_view> parts;
      for (const std::string_view word : words) splitter.split(parts, word);
      words = std::move(parts);
    }
    for (const std::string_view word : words) encode_word(word);
  }

  void encode_word(std::string_view word) {
    const bool cached = cached_ && word.size() <= kMaxCachedWord;
    if (cached) {
      if (const auto known = cache_.find(word); known != cache_.end()) {
        ids_.insert(ids_.end(), known->second.begin(), known->second.end());
        return;
      }
    }
    const auto whole = t_.ignore_merges ? t_.vocab.find(word) : t_.vocab.end();
    if (whole != t_.vocab.end()) {
      symbols_ = {whole->second};
    } else {
      spell(word);
      bpe_merge(symbols_, t_.merges);
    }
    ids_.insert(ids_.end(), symbols_.begin(), symbols_.end());
    if (cached && cache_.size() < kMaxCachedWords) cache_.emplace(word, symbols_);
  }

  // Fills symbols_ with the smallest tokens of the word.
  void spell(std::string_view word) {
    symbols_.clear();
    bool after_unknown = false;
    for (size_t i = 0; i < word.size();) {
      const size_t bytes = t_.byte_level ? 1 : utf8_step(word.substr(i)).bytes;
      const std::string_view symbol = word.substr(i, bytes);
      const int32_t id = symbol_id(symbol);
      if (id >= 0) {
        symbols_.push_back(id);
      } else if (t_.byte_fallback) {
        for (const char byte : symbol) symbols_.push_back(t_.byte_tokens[uint8_t(byte)]);
      } else if (t_.unk_id < 0) {
        refuse_unknown(symbol);
      } else if (!after_unknown || !t_.fuse_unk) {
        symbols_.push_back(t_.unk_id);
      }
      after_unknown = id < 0;
      i += bytes;
    }
  }

  int32_t symbol_id(std::string_view symbol) const {
    if (t_.byte_level) return t_.byte_tokens[uint8_t(symbol[0])];
    const auto found = t_.vocab.find(symbol);
    return found == t_.vocab.end() ? -1 : found->second;
  }

  [[noreturn]] void refuse_unknown(std::string_view symbol) const {
    const size_t offset = source_.find(symbol);
    const std::string what = describe_character(symbol);
    if (offset == source_.npos)
      throw bad_input("the vocabulary has no {}, which the normalizer or pre_tokenizer puts into the text", what);
    throw bad_input("byte {}: the vocabulary has no {}, and there is no unk_token",
                    source_.data() - input_.data() + offset, what);
  }
};

// Removes `mark` from the start of `text` at most `count` times and lowers `count`; 0 once something else has come.
void strip_start(std::string& text, std::string_view mark, int64_t& count) {
  size_t begin = 0;
  while (count > 0 && begin < text.size()) {
    if (!std::string_view(text).substr(begin).starts_with(mark)) {
      count = 0;
    } else {
      begin += mark.size();
      --count;
    }
  }
  text.erase(0, begin);
}

const Token& token_of(const Tokenizer& tokenizer, int32_t id) {
  const int64_t size = int64_t(tokenizer.tokens.size());
  if (id < 0 || id >= size || tokenizer.tokens[id].text.empty())
    throw bad_input("no token has the id {}; the vocabulary has {} ids", id, size);
  return tokenizer.tokens[id];
}

}  // namespace

std::string rewrite(std::string_view text, std::span<const Rewrite> steps) {
  std::string out(text);
  for (const Rewrite& step : steps) {
    if (!step.from) {
      if (!out.empty()) out.insert(0, step.to);
      continue;
    }
    std::string replaced;
    size_t begin = 0;
    for (size_t at; (at = out.find(*step.from, begin)) != out.npos; begin = at + step.from->size()) {
      replaced.append(out, begin, at - begin) += step.to;
      if (replaced.size() > kMaxText) throw bad_input("replacing makes a text longer than {} bytes", kMaxText);
    }
    out = replaced.append(out, begin);
  }
  return out;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text, const EncodeOptions& options) {
  if (text.size() > kMaxText) throw bad_input("a text of {} bytes is too long; at most {}", text.size(), kMaxText);
  const size_t invalid = find_invalid_utf8(text);
  if (invalid != text.npos)
    throw bad_input("byte {}: the text is not UTF-8 (0x{:02X})", invalid, uint8_t(text[invalid]));
  return Encoder(tokenizer, text).run(options);
}

std::string decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special) {
  std::string text, bytes;  // bytes: of the tokens since the last whole one
  const auto end_bytes = [&] {
    if (tokenizer.byte_level || find_invalid_utf8(bytes) == bytes.npos)
      text += take_characters(bytes, true);
    else
      for (size_t i = 0; i < bytes.size(); ++i) text += kReplacementCharacter;
    bytes.clear();
  };
  for (const int32_t id : ids) {
    const Token& token = token_of(tokenizer, id);
    if (token.special && skip_special) continue;
    if (!token.partial) end_bytes();
    (token.partial ? bytes : text) += token.bytes;
  }
  end_bytes();
  int64_t count = tokenizer.strip_count;
  strip_start(text, tokenizer.strip, count);
  return text;
}

std::string StreamDecoder::next(int32_t id) {
  const Token& token = token_of(*tokenizer_, id);
  if (token.special && skip_special_) return {};
  if (token.partial) held_ += token.bytes;
  std::string text = take_characters(held_, !token.partial);
  if (!token.partial) text += token.bytes;
  strip_start(text, tokenizer_->strip, strip_left_);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = take_characters(held_, true);
  strip_start(text, tokenizer_->strip, strip_left_);
  return text;
}

}  // namespace tangram
