#include "blocks/split_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "blocks/unicode.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

using testing::HasSubstr;

std::vector<std::string> split(const std::string& pattern, const std::string& text) {
  const SplitPattern compiled(pattern);
  std::vector<std::string_view> words;
  Splitter(compiled, text.size()).split(words, text);
  return {words.begin(), words.end()};
}

TEST(SplitPattern, CutsMatchesAndWhatIsBetween) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(split(R"(\p{N}{1,3})", "aé1234b"), (Words{"aé", "123", "4", "b"}));
  EXPECT_EQ(split(R"(\s+)", "a \u180e\u2003b"), (Words{"a", " ", "\u180e", "\u2003", "b"}));
  EXPECT_EQ(split(R"([^\s]+|\S)", "a\u180e b"), (Words{"a\u180e", " ", "b"}));
  EXPECT_EQ(split(R"((?<=a)b|c\-\d)", "abbc-12"), (Words{"a", "b", "b", "c-1", "2"}));
  EXPECT_EQ(split("x", ""), Words());
}

std::vector<std::string_view> split_by(const std::string& text, const SplitPattern& pattern) {
  std::vector<std::string_view> words;
  Splitter(pattern, text.size()).split(words, text);
  return words;
}

// Oracle: PCRE2, on every character of Unicode in the places where expressions look, and on random texts of characters
// that they tell apart.
TEST(SplitPattern, CutsByHandAsPcre2Does) {
  const char* parts[] = {"'",      "s",      "S",      "ſ",  "t",      "re",     "VE",         "lL",        "'m",
                         "D",      " ",      "  ",     "\n", "\r",     "\t",     "1",          "23",        "a",
                         "é",      "Ⅷ",      "٣",      "!",  "…",      "😀",      "̈",           "中",        "_",
                         "\u0085", "\u00a0", "\u2028", "-",  "\u180e", "\u200d", "\U00031350", "\U00011f50"};
  for (const std::string_view pattern : {kLlama3Pattern, kQwen2Pattern, kGpt2Pattern}) {
    const SplitPattern by_hand(pattern), by_pcre2(pattern, SplitBy::pcre2);
    std::string all;
    for (uint32_t c = 1; c < 0x110000; ++c)
      if (c < 0xD800 || c > 0xDFFF) all += "a" + character_of(c) + " " + character_of(c) + "1\n";
    EXPECT_EQ(split_by(all, by_hand), split_by(all, by_pcre2)) << pattern;
    std::mt19937 random(1);
    for (int round = 0; round < 5000; ++round) {
      std::string text;
      for (size_t n = random() % 12; n > 0; --n) text += parts[random() % std::size(parts)];
      ASSERT_EQ(split_by(text, by_hand), split_by(text, by_pcre2)) << pattern << ": " << text;
    }
  }
}

// Oracle: Unicode's own tables, by hand; PCRE2 10.42 knows none of these.
TEST(SplitPattern, KnowsCharactersOfUnicode16) {
  using Words = std::vector<std::string>;
  EXPECT_EQ(split(R"(\p{L}+|\p{N}+)", "a\U00031350\u1c89\U00011f50-1\U0001ccf9"),
            (Words{"a\U00031350\u1c89", "\U00011f50", "-", "1\U0001ccf9"}));
  EXPECT_EQ(split(R"([^\p{L}]|\D)", "\U00031350!\U00011f50"), (Words{"\U00031350", "!", "\U00011f50"}));
  EXPECT_EQ(split(R"([\p{L}-]+|\P{L})", "b-\U00031350+"), (Words{"b-\U00031350", "+"}));
}

TEST(SplitPattern, CutsLongWordsWhole) {
  const std::string letters(100000, 'a'), spaces(60000, ' ');
  EXPECT_EQ(split(R"(\p{L}+|\s*[\r\n]+|\s+(?!\S)|\s+)", letters + spaces + "b"),
            (std::vector<std::string>{letters, spaces.substr(1), " ", "b"}));
  std::string accents = "a";
  for (int i = 0; i < 1000; ++i) accents += "é";
  EXPECT_EQ(split(R"(\p{L}+)", accents), std::vector<std::string>{accents});
}

TEST(SplitPattern, CutsByHandInLinearTime) {
  const std::string spaces(4 << 20, ' ');
  EXPECT_EQ(split(std::string(kLlama3Pattern), "\n" + spaces + "x"),
            (std::vector<std::string>{"\n", spaces.substr(1), " x"}));
}

TEST(SplitPattern, RefusesPatternsThatRunAway) {
  for (const char* pattern : {"(a+)+[bc]|a", "(?:a|a)*b|a", R"(\p{L}*\p{L}*\p{L}*[,;]|a)"})
    EXPECT_THAT(message_of([&] { split(pattern, std::string(200000, 'a')); }), HasSubstr("takes too many steps"));
  EXPECT_THAT(message_of([&] { split(R"(\s*[\r\n]+|\s)", std::string(200000, ' ')); }),
              HasSubstr("takes too many steps on a text of 200000 bytes at byte 0"));
}

TEST(SplitPattern, RefusesWhatMeansSomethingElseInPcre) {
  for (const char* pattern : {R"(\h)", R"(\w)",   R"(\bx)",   R"((a)\1)", "[a[b]]", "[a&&b]", "[]a]",  R"([\S])",
                              "(?R)a", "(*FAIL)", "(?P<n>a)", "(?m:a)",   "^a",     "a$",     "a{2}+", "a{2}?",
                              "a{,2}", R"(\pL)",  "a\\",      "(a",       "a*",     "",       "(?=a)"})
    EXPECT_NE(message_of([&] { SplitPattern{pattern}; }), "") << pattern;
  EXPECT_THAT(message_of([&] { SplitPattern{R"(a\h)"}; }), HasSubstr(R"(pattern 'a\h', byte 1: \h is not supported)"));
}

}  // namespace
}  // namespace tangram
