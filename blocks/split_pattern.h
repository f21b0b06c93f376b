#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "blocks/known_split.h"

struct pcre2_real_code_8;  // PCRE2's own names, outside our namespace
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;
struct pcre2_real_jit_stack_8;

namespace tangram {

enum class SplitBy : uint8_t {
  fastest,
  pcre2,  ///< also what has a matcher by hand: to check that
};

/// The regular expression of a pre_tokenizer, which cuts text into words before byte-pair encoding.
///
/// Expressions in a tokenizer.json are written for Oniguruma and run here by PCRE2. Accepted is the part of the syntax
/// that means the same in both: literals, classes without nesting, | * + ? {m,n} {m}, greedy, lazy or possessive (only
/// greedy after braces), the groups ( (?: (?i: (?= (?! (?<= (?<!, the escapes \s \S \d \D \p \P \r \n \t and escaped
/// punctuation. The rest (back-references, recursion, callouts, anchors, verbs) is refused.
///
/// \p{L}, \p{N}, \d and \s are those of Unicode 16, as in the reference; other properties are those of PCRE2's Unicode
/// version, 14 for PCRE2 10.42. The expressions of Llama 3, Qwen 2 and GPT-2 are matched by hand (known_split.h), with
/// the same words.
class SplitPattern {
 public:
  /// Throws Error if the expression does not compile, has over 4096 bytes, uses something that is not accepted, or
  /// matches the empty text.
  explicit SplitPattern(std::string_view pattern, SplitBy by = SplitBy::fastest);

  const std::string& text() const { return text_; }

 private:
  friend class Splitter;
  std::string text_;
  KnownSplit known_ = KnownSplit::none;
  std::shared_ptr<const pcre2_real_code_8> code_;
};

/// Cuts the parts of one text, with a limit on the time for all of them together. For one thread.
class Splitter {
 public:
  /// `pattern` must outlive this; `text_bytes` is the length of the whole text.
  Splitter(const SplitPattern& pattern, size_t text_bytes);

  /// Appends to `words` the matches in `text`, and what stands between them, in order: together they are the text,
  /// which must be UTF-8. No expression and no text can make this hang: it throws Error after 10 s and 10 us a byte of
  /// the whole text (hundreds of times what PCRE2 takes for Llama 3's), or if one match takes too many steps.
  /// Expressions that are matched by hand take linear time.
  void split(std::vector<std::string_view>& words, std::string_view text);

 private:
  struct Free {
    void operator()(pcre2_real_match_data_8* data) const;
    void operator()(pcre2_real_match_context_8* context) const;
    void operator()(pcre2_real_jit_stack_8* stack) const;
  };
  void split_by_pcre2(std::vector<std::string_view>& words, std::string_view text);
  size_t match(std::string_view text, size_t begin);

  KnownSplit known_;
  const pcre2_real_code_8* code_;
  std::chrono::duration<double> seconds_left_;
  std::unique_ptr<pcre2_real_match_data_8, Free> data_;
  std::unique_ptr<pcre2_real_match_context_8, Free> context_;
  std::unique_ptr<pcre2_real_jit_stack_8, Free> stack_;
};

}  // namespace tangram
