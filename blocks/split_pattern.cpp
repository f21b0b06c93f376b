#define PCRE2_CODE_UNIT_WIDTH 8
#include "blocks/split_pattern.h"

#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "kernels/error.h"

namespace tangram {
namespace {

// PCRE2 has U+180E among the spaces, Unicode and Oniguruma have not.
constexpr std::string_view kSpace = R"(\p{Z}\t-\r\x{85})";

constexpr size_t kMaxPattern = 4096;

constexpr std::string_view kGroups[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!"};

// A pattern in PCRE2's syntax; refuses what means something else there, or could run away.
struct Translator {
  std::string_view in;
  std::string out = {};
  size_t at = 0;
  bool in_class = false;

  [[noreturn]] void refuse(std::string_view what) const {
    throw bad_input("pattern '{}', byte {}: {} is not supported", in, at, what);
  }

  bool follows(std::string_view text) const { return in.substr(at).starts_with(text); }

  void copy(size_t bytes) {
    out += in.substr(at, bytes);
    at += bytes;
  }

  void escape() {
    if (at + 1 == in.size()) refuse("a backslash at the end");
    const char c = in[at + 1];
    if (c == 's' || c == 'S') {
      if (in_class && c == 'S') refuse("\\S in a class");
      out += in_class ? std::string(kSpace) : fmt::format("[{}{}]", c == 'S' ? "^" : "", kSpace);
      at += 2;
    } else if (c == 'p' || c == 'P') {
      const size_t end = in.find('}', at);
      if (in.substr(at + 2, 1) != "{" || end == in.npos) refuse("a property without braces");
      copy(end + 1 - at);
    } else if (c == 'd' || c == 'D' || c == 'r' || c == 'n' || c == 't' || std::ispunct(uint8_t(c))) {
      copy(2);
    } else {
      refuse(fmt::format("\\{}", c));
    }
  }

  void class_character() {
    if (in[at] == '[') refuse("[ in a class");
    if (follows("&&")) refuse("&& in a class");
    if (in[at] == ']') in_class = false;
    copy(1);
  }

  void open_class() {
    in_class = true;
    copy(follows("[^") ? 2 : 1);
    if (follows("]")) refuse("] at the start of a class");
  }

  void open_group() {
    if (!follows("(?") && !follows("(*")) return copy(1);
    for (const std::string_view group : kGroups)
      if (follows(group)) return copy(group.size());
    refuse(in.substr(at, 3));
  }

  std::string run() {
    while (at < in.size()) {
      const char c = in[at];
      if (c == '\\') {
        escape();
      } else if (in_class) {
        class_character();
      } else if (c == '[') {
        open_class();
      } else if (c == '(') {
        open_group();
      } else {
        if (c == '^' || c == '$') refuse(in.substr(at, 1));
        if (follows("{,") || follows("}+") || follows("}?")) refuse(in.substr(at, 2));
        copy(1);
      }
    }
    return out;
  }
};

struct FreeMatching {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

template <class T>
using Owned = std::unique_ptr<T, FreeMatching>;

// Finds the match at one place with the least effort: the expression first sees few bytes and may take few steps, and
// more of whichever runs out. A match costs at most their product, which bounds the whole.
class Matcher {
 public:
  Matcher(const pcre2_code* code, std::string_view text)
      : code_(code),
        text_(text),
        budget_(kBudget + kBudgetPerByte * text.size()),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)),
        stack_(pcre2_jit_stack_create(32 << 10, kMaxStackBytes, nullptr)) {
    CHECK(data_ && context_, "no memory for matching");
    pcre2_set_heap_limit(context_.get(), kMaxStackBytes >> 10);
    if (stack_) pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }

  // The length in bytes of the match that begins at `begin`; 0 if there is none.
  size_t match(size_t begin) {
    size_t window = kFirstEffort, steps = kFirstEffort;
    for (;;) {
      size_t end = std::min(begin + window, text_.size());
      while (end < text_.size() && (text_[end] & 0xC0) == 0x80) ++end;  // not inside a character
      pcre2_set_match_limit(context_.get(), uint32_t(steps));
      const uint32_t options = PCRE2_NO_UTF_CHECK | (end < text_.size() ? PCRE2_PARTIAL_HARD : 0);
      const int found = pcre2_match(code_, PCRE2_SPTR(text_.data()), end, begin, options, data_.get(), context_.get());
      if (found >= 0) return pcre2_get_ovector_pointer(data_.get())[1] - begin;
      if (found == PCRE2_ERROR_NOMATCH) return 0;
      if (found == PCRE2_ERROR_PARTIAL)
        window *= 4;
      else if (found == PCRE2_ERROR_MATCHLIMIT)
        steps *= 4;
      else
        throw bad_input("byte {}: the pre_tokenizer's pattern failed (PCRE2 error {})", begin, found);
      const uint64_t cost = uint64_t(steps) * std::min(window, text_.size());
      if (cost > budget_) throw bad_input("byte {}: the pre_tokenizer's pattern takes too many steps", begin);
      budget_ -= cost;
    }
  }

 private:
  static constexpr size_t kFirstEffort = 64;  // nearly every word of real text is shorter
  static constexpr uint64_t kBudget = uint64_t(1) << 34, kBudgetPerByte = 1 << 14;  // about 20 s, and 20 us a byte
  static constexpr size_t kMaxStackBytes = 64 << 20;

  const pcre2_code* code_;
  std::string_view text_;
  uint64_t budget_;
  Owned<pcre2_match_data> data_;
  Owned<pcre2_match_context> context_;
  Owned<pcre2_jit_stack> stack_;
};

}  // namespace

SplitPattern::SplitPattern(std::string_view pattern) {
  if (pattern.empty() || pattern.size() > kMaxPattern)
    throw bad_input("a pattern has 1 to {} bytes, this one {}", kMaxPattern, pattern.size());
  const std::string translated = Translator{pattern}.run();
  // Anchored: a match is tried at one place only, so that its cost is known before the next is tried.
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C;
  int error;
  size_t offset;
  code_.reset(
      pcre2_compile(PCRE2_SPTR(translated.data()), translated.size(), options, &error, &offset, nullptr));
  if (!code_) {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(error, message, sizeof(message));
    throw bad_input("pattern '{}': {}", pattern, reinterpret_cast<const char*>(message));
  }
  int may_be_empty = 0;
  pcre2_pattern_info(code_.get(), PCRE2_INFO_MATCHEMPTY, &may_be_empty);
  if (may_be_empty) throw bad_input("pattern '{}' matches the empty text", pattern);
  // Where there is no JIT compiler the expression is interpreted, with the same result.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
}

void SplitPattern::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

void SplitPattern::split(std::vector<std::string_view>& words, std::string_view text) const {
  Matcher matcher(code_.get(), text);
  size_t unmatched = 0;  // where the text begins that no match has taken
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = matcher.match(at);
    if (bytes > 0) {
      if (unmatched < at) words.push_back(text.substr(unmatched, at - unmatched));
      words.push_back(text.substr(at, bytes));
      unmatched = at += bytes;
    } else {
      do ++at;
      while (at < text.size() && (text[at] & 0xC0) == 0x80);
    }
  }
  if (unmatched < text.size()) words.push_back(text.substr(unmatched));
}

}  // namespace tangram
