#include "blocks/unicode.h"

#include <gtest/gtest.h>

namespace tangram {
namespace {

// Oracle: the bit layout of RFC 3629, written the other way round.
std::string encode_code_point(uint32_t c) {
  if (c < 0x80) return {char(c)};
  if (c < 0x800) return {char(0xC0 | c >> 6), char(0x80 | (c & 63))};
  if (c < 0x10000) return {char(0xE0 | c >> 12), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
  return {char(0xF0 | c >> 18), char(0x80 | (c >> 12 & 63)), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
}

TEST(Unicode, AcceptsExactlyTheCodePoints) {
  for (uint32_t c = 0; c < 0x200000; ++c) {
    const bool valid = c < 0x110000 && !(c >= 0xD800 && c < 0xE000);
    ASSERT_EQ(find_invalid_utf8(encode_code_point(c)) == std::string::npos, valid) << c;
  }
  for (const char* overlong : {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF"})
    EXPECT_EQ(find_invalid_utf8(overlong), 0u);
  EXPECT_EQ(find_invalid_utf8("aé\x80"), 3u);
}

TEST(Unicode, TakesWholeCharacters) {
  std::string bytes = "a\xFF\xE2\x82g\xC3";
  EXPECT_EQ(take_characters(bytes, false), "a\uFFFD\uFFFDg");
  EXPECT_EQ(bytes, "\xC3");
  EXPECT_EQ(take_characters(bytes, true), "\uFFFD");
  EXPECT_EQ(bytes, "");
}

// Oracle: by hand, from the table of maximal subparts in Unicode's chapter 3.9.
TEST(Unicode, ReplacesTheLongestStartOfACharacter) {
  EXPECT_EQ(replace_invalid_utf8("\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63"), "\uFFFD\uFFFD\uFFFD\x62\uFFFD\x63");
  EXPECT_EQ(replace_invalid_utf8("\xED\xA0\x80\xC0\xAF"), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
}

TEST(Unicode, PrintsWhatATerminalWouldObey) {
  EXPECT_EQ(printable("é \\ 'a'\u2026"), "é \\ 'a'\u2026");
  EXPECT_EQ(printable("a\x1b[31m\nb\r\x7f\u009b"), "a\\x1B[31m\\x0Ab\\x0D\\x7F\\xC2\\x9B");
  EXPECT_EQ(printable("a\nb\t", "\n"), "a\nb\\x09");
  EXPECT_EQ(printable("a\xFF\xE2\x82"), "a\\xFF\\xE2\\x82");
  EXPECT_EQ(printable({"\0", 1}), "\\x00");
}

}  // namespace
}  // namespace tangram
