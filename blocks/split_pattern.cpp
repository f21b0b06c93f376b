#define PCRE2_CODE_UNIT_WIDTH 8
#include "blocks/split_pattern.h"

#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "blocks/character_class.h"
#include "kernels/error.h"

namespace tangram {
namespace {

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

  // The `bytes` here stand for the characters of a class, or for all others.
  void put_class(std::string_view characters, bool others, size_t bytes) {
    if (in_class && others) refuse(fmt::format("{} in a class", in.substr(at, bytes)));
    out += in_class ? std::string(characters) : fmt::format("[{}{}]", others ? "^" : "", characters);
    at += bytes;
  }

  void escape() {
    if (at + 1 == in.size()) refuse("a backslash at the end");
    const char c = in[at + 1];
    if (c == 's' || c == 'S') {
      put_class(kSpaceClass, c == 'S', 2);
    } else if (c == 'd' || c == 'D') {
      put_class(fmt::format(R"(\d{}\d)", newer_characters("d")), c == 'D', 2);
    } else if (c == 'p' || c == 'P') {
      const size_t end = in.find('}', at);
      if (in.substr(at + 2, 1) != "{" || end == in.npos) refuse("a property without braces");
      const std::string_view newer = newer_characters(in.substr(at + 3, end - at - 3));
      if (newer.empty()) return copy(end + 1 - at);
      const std::string_view name = in.substr(at + 2, end - at - 1);
      put_class(fmt::format(R"(\p{}{}\p{})", name, newer, name), c == 'P', end + 1 - at);
    } else if (c == 'r' || c == 'n' || c == 't' || std::ispunct(uint8_t(c))) {
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

constexpr size_t kFirstEffort = 64;                 // nearly every word of real text is shorter
constexpr uint64_t kMaxEffort = uint64_t(1) << 33;  // of one match, steps times bytes in sight; up to 20 s
constexpr double kSeconds = 10, kSecondsPerByte = 1e-5;
constexpr size_t kMaxStackBytes = 64 << 20;

[[noreturn]] void refuse(std::string_view what, std::string_view text, size_t offset) {
  throw bad_input("the pre_tokenizer's pattern {} on a text of {} bytes at byte {}", what, text.size(), offset);
}

bool continues_character(char byte) { return (byte & 0xC0) == 0x80; }

}  // namespace

SplitPattern::SplitPattern(std::string_view pattern, SplitBy by) : text_(pattern) {
  if (pattern.empty() || pattern.size() > kMaxPattern)
    throw bad_input("a pattern has 1 to {} bytes, this one {}", kMaxPattern, pattern.size());
  const std::string translated = Translator{pattern}.run();
  // Anchored: a match is tried at one place only, so that its cost is known before the next is tried.
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED;
  int error;
  size_t offset;
  pcre2_code* code = pcre2_compile(PCRE2_SPTR(translated.data()), translated.size(), options, &error, &offset, nullptr);
  if (!code) {
    PCRE2_UCHAR message[128];
    pcre2_get_error_message(error, message, sizeof(message));
    throw bad_input("pattern '{}': {}", pattern, reinterpret_cast<const char*>(message));
  }
  code_.reset(code, pcre2_code_free);
  int may_be_empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
  if (may_be_empty) throw bad_input("pattern '{}' matches the empty text", pattern);
  if (by == SplitBy::fastest) known_ = known_split(pattern);
  // Where there is no JIT compiler the expression is interpreted, with the same result.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);
}

Splitter::Splitter(const SplitPattern& pattern, size_t text_bytes)
    : known_(pattern.known_),
      code_(pattern.code_.get()),
      seconds_left_(kSeconds + kSecondsPerByte * double(text_bytes)),
      data_(pcre2_match_data_create(1, nullptr)),
      context_(pcre2_match_context_create(nullptr)),
      stack_(pcre2_jit_stack_create(32 << 10, kMaxStackBytes, nullptr)) {
  CHECK(data_ && context_, "no memory for matching");
  pcre2_set_heap_limit(context_.get(), kMaxStackBytes >> 10);
  if (stack_) pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
}

void Splitter::Free::operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
void Splitter::Free::operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
void Splitter::Free::operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }

// The length in bytes of the match that begins at `begin`; 0 if there is none. The expression first sees few bytes and
// may take few steps, then more of whichever ran out. A step costs at most the bytes in sight: that bounds one match.
size_t Splitter::match(std::string_view text, size_t begin) {
  size_t window = kFirstEffort, steps = kFirstEffort;
  for (;;) {
    size_t end = std::min(begin + window, text.size());
    while (end < text.size() && continues_character(text[end])) ++end;
    if (uint64_t(steps) * (end - begin) > kMaxEffort) refuse("takes too many steps", text, begin);
    const uint32_t options = PCRE2_NO_UTF_CHECK | (end < text.size() ? PCRE2_PARTIAL_HARD : 0);
    pcre2_set_match_limit(context_.get(), uint32_t(steps));
    const int found = pcre2_match(code_, PCRE2_SPTR(text.data()), end, begin, options, data_.get(), context_.get());
    if (found >= 0) return pcre2_get_ovector_pointer(data_.get())[1] - begin;
    if (found == PCRE2_ERROR_NOMATCH) return 0;
    if (found == PCRE2_ERROR_PARTIAL)
      window *= 4;
    else if (found == PCRE2_ERROR_MATCHLIMIT)
      steps *= 4;
    else
      refuse(fmt::format("failed (PCRE2 error {})", found), text, begin);
  }
}

void Splitter::split(std::vector<std::string_view>& words, std::string_view text) {
  if (known_ == KnownSplit::none) return split_by_pcre2(words, text);
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = match_known(known_, text, at);
    words.push_back(text.substr(at, bytes));
    at += bytes;
  }
}

void Splitter::split_by_pcre2(std::vector<std::string_view>& words, std::string_view text) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(seconds_left_);
  size_t unmatched = 0;  // where the text begins that no match has taken
  for (size_t at = 0; at < text.size();) {
    const size_t bytes = match(text, at);
    if (Clock::now() > deadline) refuse("takes too long", text, at);
    if (bytes > 0) {
      if (unmatched < at) words.push_back(text.substr(unmatched, at - unmatched));
      words.push_back(text.substr(at, bytes));
      unmatched = at += bytes;
    } else {
      do ++at;
      while (at < text.size() && continues_character(text[at]));
    }
  }
  if (unmatched < text.size()) words.push_back(text.substr(unmatched));
  seconds_left_ = deadline - Clock::now();
}

}  // namespace tangram
