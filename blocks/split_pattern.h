#pragma once
#include <memory>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace tangram {

/// The regular expression of a pre_tokenizer, which cuts text into words before byte-pair encoding.
///
/// Expressions in a tokenizer.json are written for Oniguruma and run here by PCRE2. Accepted is the part of the syntax
/// that means the same in both: literals, classes without nesting, | * + ? {m,n} {m}, greedy, lazy or possessive (only
/// greedy after braces), the groups ( (?: (?i: (?= (?! (?<= (?<!, the escapes \s \S \d \D \p \P \r \n \t and escaped
/// punctuation. The rest (back-references, recursion, callouts, anchors, verbs) is refused.
///
/// Classes are those of PCRE2's Unicode version, 14 for PCRE2 10.42: a character that was assigned later is no letter.
class SplitPattern {
 public:
  /// Throws Error if the expression does not compile, uses something that is not accepted, or matches the empty text.
  explicit SplitPattern(std::string_view pattern);

  /// Appends to `words` the matches in `text`, and what stands between them, in order: together they are the text.
  /// `text` must be UTF-8. The time is bounded by a constant a byte; throws Error if the expression needs more.
  void split(std::vector<std::string_view>& words, std::string_view text) const;

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace tangram
