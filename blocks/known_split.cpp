#include "blocks/known_split.h"

#include "blocks/character_class.h"
#include "blocks/unicode.h"

namespace tangram {
namespace {

using enum CharacterClass;

struct Character {
  CharacterClass kind;
  size_t bytes;
};

// One expression on one text. The alternatives are tried in their order; what each takes is written beside it.
template <KnownSplit kSplit>
class Matcher {
 public:
  explicit Matcher(std::string_view text) : text_(text) {}

  size_t match(size_t begin) const {
    if (text_[begin] == '\'')
      if (const size_t bytes = contraction(begin)) return bytes;
    const Character first = at(begin);
    const size_t second = begin + first.bytes;
    if (second < text_.size() && takes_one_before(begin, first.kind)) {
      const CharacterClass next = at(second).kind;
      if (next == letter) return run(second, letter) - begin;
      if (text_[begin] == ' ') {
        if (kSplit == KnownSplit::gpt2 && next == number) return run(second, number) - begin;
        if (next == other) return newlines(run(second, other)) - begin;
      }
    }
    switch (first.kind) {
      case letter:
        return run(begin, letter) - begin;
      case number:
        return run(begin, number, kMostDigits) - begin;
      case other:
        return newlines(run(begin, other)) - begin;
      case space:
        break;
    }
    return spaces(begin);
  }

 private:
  static constexpr bool kGpt2 = kSplit == KnownSplit::gpt2;
  static constexpr size_t kMostDigits = kGpt2 ? SIZE_MAX : kSplit == KnownSplit::llama3 ? 3 : 1;

  const std::string_view text_;

  Character at(size_t i) const {
    const char c = text_[i];
    if (uint8_t(c) < 0x80) return {class_of_ascii(c), 1};
    const size_t bytes = uint8_t(c) < 0xE0 ? 2 : uint8_t(c) < 0xF0 ? 3 : 4;
    return {class_of(code_point_of(text_.substr(i, bytes))), bytes};
  }

  // Where the characters of one kind end that begin at `i`, at most `most` of them.
  size_t run(size_t i, CharacterClass kind, size_t most = SIZE_MAX) const {
    for (; most > 0 && i < text_.size(); --most) {
      const Character c = at(i);
      if (c.kind != kind) break;
      i += c.bytes;
    }
    return i;
  }

  // 's|'t|'re|'ve|'m|'ll|'d; ignoring case, ſ (U+017F) is an s, too.
  size_t contraction(size_t begin) const {
    const auto lower = [&](size_t i) {
      const char c = i < text_.size() ? text_[i] : '\0';
      return !kGpt2 && c >= 'A' && c <= 'Z' ? char(c + 0x20) : c;
    };
    const char a = lower(begin + 1), b = lower(begin + 2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    return !kGpt2 && text_.substr(begin + 1).starts_with("\u017F") ? 3 : 0;
  }

  // Whether the character may stand before a word: [^\r\n\p{L}\p{N}]? of Llama 3 and Qwen 2, " ?" of GPT-2.
  bool takes_one_before(size_t i, CharacterClass kind) const {
    if (kGpt2) return text_[i] == ' ';
    return kind != letter && kind != number && text_[i] != '\r' && text_[i] != '\n';
  }

  // [\r\n]* after punctuation; GPT-2's has none.
  size_t newlines(size_t i) const {
    while (!kGpt2 && i < text_.size() && (text_[i] == '\r' || text_[i] == '\n')) ++i;
    return i;
  }

  // \s*[\r\n]+ ends after the last line break of the spaces; \s+(?!\S) leaves the last of them to what follows; \s+.
  size_t spaces(size_t begin) const {
    size_t end = begin, last = begin, after_newline = 0;
    while (end < text_.size()) {
      const Character c = at(end);
      if (c.kind != space) break;
      last = end;
      end += c.bytes;
      if (text_[last] == '\r' || text_[last] == '\n') after_newline = end;
    }
    if (!kGpt2 && after_newline > 0) return after_newline - begin;
    return (end < text_.size() && last > begin ? last : end) - begin;
  }
};

}  // namespace

KnownSplit known_split(std::string_view pattern) {
  if (pattern == kLlama3Pattern) return KnownSplit::llama3;
  if (pattern == kQwen2Pattern) return KnownSplit::qwen2;
  return pattern == kGpt2Pattern ? KnownSplit::gpt2 : KnownSplit::none;
}

size_t match_known(KnownSplit split, std::string_view text, size_t begin) {
  switch (split) {
    case KnownSplit::llama3:
      return Matcher<KnownSplit::llama3>(text).match(begin);
    case KnownSplit::qwen2:
      return Matcher<KnownSplit::qwen2>(text).match(begin);
    case KnownSplit::gpt2:
      return Matcher<KnownSplit::gpt2>(text).match(begin);
    case KnownSplit::none:
      break;
  }
  return 0;
}

}  // namespace tangram
