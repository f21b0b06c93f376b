#include <algorithm>
#include <bit>

#include "blocks/tokenizer.h"
#include "blocks/unicode.h"
#include "kernels/error.h"

namespace tangram {
namespace {

constexpr size_t kMaxText = size_t(1) << 30;  // positions in a word are int32
constexpr size_t kBytesPerWord = 4;           // of real text, about: how many words are worth a place in the cache

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
  for (size_t i = 0; i < text.size() && !finder.tokens.empty();) {
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
void cut_before(std::vector<std::string_view>& words, std::string_view text, std::string_view mark) {
  while (!text.empty()) {
    const size_t end = std::min(text.find(mark, 1), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

void cut_at_marks(std::vector<std::string_view>& words, std::string_view text, const WordMarks& marks) {
  const char first = marks.before.empty() ? '\xFF' : marks.before[0];  // 0xFF is in no UTF-8
  const auto marked = [&](size_t i) { return text[i] == first && text.substr(i).starts_with(marks.before); };
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const bool alone = uint8_t(text[i]) < 0x80 && marks.around[uint8_t(text[i])];
    if (!alone && !marked(i)) {
      ++i;
      continue;
    }
    if (begin < i) words.push_back(text.substr(begin, i - begin));
    begin = i;
    while (!alone && i < text.size() && marked(i)) i += marks.before.size();
    if (alone) {
      words.push_back(text.substr(i, 1));
      begin = ++i;
    }
  }
  if (begin < text.size()) words.push_back(text.substr(begin));
}

}  // namespace

Encoder::Encoder(const Tokenizer& tokenizer, size_t cached_words) : t_(&tokenizer), cache_(cached_words) {
  for (size_t c = 0; c < ascii_.size(); ++c) {
    const auto found = tokenizer.vocab.find(std::string(1, char(c)));
    ascii_[c] = found == tokenizer.vocab.end() ? -1 : found->second;
  }
}

std::vector<int32_t> Encoder::encode(std::string_view input, const EncodeOptions& options) {
  if (input.size() > kMaxText) throw bad_input("a text of {} bytes is too long; at most {}", input.size(), kMaxText);
  const size_t invalid = find_invalid_utf8(input);
  if (invalid != input.npos)
    throw bad_input("byte {}: the text is not UTF-8 (0x{:02X})", invalid, uint8_t(input[invalid]));
  input_ = input;
  ids_.clear();
  splitters_.clear();
  for (const SplitPattern& pattern : t_->splits) splitters_.emplace_back(pattern, input.size());
  if (options.add_bos) ids_ = t_->prefix;
  for (const Piece& raw : cut_at_added_tokens(*t_, t_->added, input, options.parse_special)) {
    source_ = raw.text;
    if (raw.id >= 0) {
      ids_.push_back(raw.id);
      continue;
    }
    const std::string text = rewrite(raw.text, t_->normalizer);
    for (const Piece& piece : cut_at_added_tokens(*t_, t_->added_normalized, text, options.parse_special)) {
      const bool first = raw.text.data() == input.data() && piece.text.data() == text.data();
      if (piece.id >= 0)
        ids_.push_back(piece.id);
      else
        encode_piece(piece.text, first);
    }
  }
  return std::move(ids_);
}

void Encoder::encode_piece(std::string_view text, bool first) {
  std::string changed;
  if (t_->metaspace) {
    const Metaspace& m = *t_->metaspace;
    changed = rewrite(text, std::array{Rewrite{" ", m.replacement}});
    const bool prepend = m.prepend == Metaspace::Prepend::always || (m.prepend == Metaspace::Prepend::first && first);
    if (prepend && !changed.starts_with(m.replacement)) changed.insert(0, m.replacement);
    text = changed;
  } else if (t_->add_prefix_space && !text.starts_with(' ')) {
    changed.append(" ").append(text);
    text = changed;
  }
  words_.clear();
  if (t_->metaspace && t_->metaspace->split)
    cut_before(words_, text, t_->metaspace->replacement);
  else
    cut_at_marks(words_, text, t_->marks);
  for (Splitter& splitter : splitters_) {
    std::vector<std::string_view> parts;
    parts.reserve(text.size() / kBytesPerWord);
    for (const std::string_view word : words_) splitter.split(parts, word);
    words_ = std::move(parts);
  }
  for (const std::string_view word : words_) encode_word(word);
}

void Encoder::encode_word(std::string_view word) {
  if (const auto known = cache_.find(word)) {
    ids_.insert(ids_.end(), known->begin(), known->end());
    return;
  }
  const auto whole = t_->ignore_merges ? t_->vocab.find(word) : t_->vocab.end();
  if (whole != t_->vocab.end()) {
    symbols_ = {whole->second};
  } else {
    spell(word);
    bpe_merge(symbols_, t_->merges);
  }
  ids_.insert(ids_.end(), symbols_.begin(), symbols_.end());
  cache_.put(word, symbols_);
}

void Encoder::spell(std::string_view word) {
  symbols_.clear();
  bool after_unknown = false;
  for (size_t i = 0; i < word.size();) {
    const size_t bytes = t_->byte_level ? 1 : utf8_step(word.substr(i)).bytes;
    const std::string_view symbol = word.substr(i, bytes);
    const int32_t id = symbol_id(symbol);
    if (id >= 0) {
      symbols_.push_back(id);
    } else if (t_->byte_fallback) {
      for (const char byte : symbol) symbols_.push_back(t_->byte_tokens[uint8_t(byte)]);
    } else if (t_->unk_id < 0) {
      refuse_unknown(symbol);
    } else if (!after_unknown || !t_->fuse_unk) {
      symbols_.push_back(t_->unk_id);
    }
    after_unknown = id < 0;
    i += bytes;
  }
}

int32_t Encoder::symbol_id(std::string_view symbol) const {
  if (t_->byte_level) return t_->byte_tokens[uint8_t(symbol[0])];
  if (symbol.size() == 1) return ascii_[uint8_t(symbol[0])];
  const auto found = t_->vocab.find(symbol);
  return found == t_->vocab.end() ? -1 : found->second;
}

void Encoder::refuse_unknown(std::string_view symbol) const {
  const size_t offset = source_.find(symbol);
  const std::string what = describe_character(symbol);
  if (offset == source_.npos)
    throw bad_input("the vocabulary has no {}, which the normalizer or pre_tokenizer puts into the text", what);
  throw bad_input("byte {}: the vocabulary has no {}, and there is no unk_token",
                  source_.data() - input_.data() + offset, what);
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text, const EncodeOptions& options) {
  return Encoder(tokenizer, std::min(Encoder::kCachedWords, text.size() / kBytesPerWord)).encode(text, options);
}

}  // namespace tangram
