#define PCRE2_CODE_UNIT_WIDTH 8
#include "blocks/character_class.h"

#include <pcre2.h>

#include <fmt/format.h>

#include <vector>

#include "blocks/unicode.h"
#include "kernels/error.h"

namespace tangram {
namespace {

constexpr std::string_view kNewerLetters =
    R"(\x{1C89}-\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}\x{10D4A}-\x{10D65}\x{10D6F}-\x{10D85})"
    R"(\x{10EC2}-\x{10EC4}\x{1123F}-\x{11240}\x{11380}-\x{11389}\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7})"
    R"(\x{113D1}\x{113D3}\x{11BC0}-\x{11BE0}\x{11F02}\x{11F04}-\x{11F10}\x{11F12}-\x{11F33}\x{1342F})"
    R"(\x{13441}-\x{13446}\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}\x{18CFF}\x{1B132}\x{1B155})"
    R"(\x{1DF25}-\x{1DF2A}\x{1E030}-\x{1E06D}\x{1E4D0}-\x{1E4EB}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2B739})"
    R"(\x{2EBF0}-\x{2EE5D}\x{31350}-\x{323AF})";
constexpr std::string_view kNewerNumbers =
    R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59}\x{16130}-\x{16139})"
    R"(\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1D2C0}-\x{1D2D3}\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})";
constexpr std::string_view kNewerDigits =
    R"(\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}\x{11F50}-\x{11F59}\x{16130}-\x{16139})"
    R"(\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1E4F0}-\x{1E4F9}\x{1E5F1}-\x{1E5FA})";

constexpr uint32_t kCodePoints = 0x110000;

bool surrogate(uint32_t code_point) { return code_point >= 0xD800 && code_point < 0xE000; }

// Marks the characters of one class of PCRE2 in `classes`; `text` is all of Unicode.
void mark(std::vector<CharacterClass>& classes, const std::string& text, const std::string& members,
          CharacterClass kind) {
  const std::string pattern = "[" + members + "]+";
  int error;
  size_t offset;
  pcre2_code* code =
      pcre2_compile(PCRE2_SPTR(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  CHECK(code, "PCRE2 does not compile {}", pattern);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(code, nullptr);
  const size_t* match = pcre2_get_ovector_pointer(data);
  for (size_t at = 0;
       pcre2_match(code, PCRE2_SPTR(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK, data, nullptr) > 0;
       at = match[1])
    for (size_t i = match[0]; i < match[1];) {
      const std::string_view character =
          std::string_view(text).substr(i, utf8_step(std::string_view(text).substr(i, 4)).bytes);
      classes[code_point_of(character)] = kind;
      i += character.size();
    }
  pcre2_match_data_free(data);
  pcre2_code_free(code);
}

std::vector<CharacterClass> all_classes() {
  std::string text;
  for (uint32_t c = 0; c < kCodePoints; ++c)
    if (!surrogate(c)) text += character_of(c);
  std::vector<CharacterClass> classes(kCodePoints, CharacterClass::other);
  mark(classes, text, fmt::format(R"(\p{{L}}{})", kNewerLetters), CharacterClass::letter);
  mark(classes, text, fmt::format(R"(\p{{N}}{})", kNewerNumbers), CharacterClass::number);
  mark(classes, text, std::string(kSpaceClass), CharacterClass::space);
  return classes;
}

}  // namespace

std::string_view newer_characters(std::string_view property) {
  if (property == "L") return kNewerLetters;
  if (property == "N") return kNewerNumbers;
  return property == "d" ? kNewerDigits : std::string_view();
}

CharacterClass class_of(uint32_t code_point) {
  static const std::vector<CharacterClass> kClasses = all_classes();
  return kClasses[code_point];
}

}  // namespace tangram
