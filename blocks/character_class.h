#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace tangram {

/// What expressions of pre_tokenizers tell apart: \p{L}, \p{N}, \s and the rest.
enum class CharacterClass : uint8_t { other, letter, number, space };

/// Characters that Unicode 16 has and PCRE2 10.42, of Unicode 14, does not know: what has to be added to \p{L}, \p{N}
/// and \d (`property` is L, N or d) in the syntax of a class, so that they mean what the reference's Oniguruma means.
/// Empty for any other.
std::string_view newer_characters(std::string_view property);

/// \s in the syntax of a class of PCRE2, which itself has U+180E among the spaces; Unicode and Oniguruma have not.
/// Begins and ends with a property, so that a hyphen beside it makes no range.
inline constexpr std::string_view kSpaceClass = R"(\p{Z}\t-\r\x{85}\p{Z})";

/// The class of a character over U+007F. The first call asks PCRE2 about all of Unicode (30 ms).
CharacterClass class_of(uint32_t code_point);

/// The same of an ASCII character.
constexpr CharacterClass class_of_ascii(char c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return CharacterClass::letter;
  if (c >= '0' && c <= '9') return CharacterClass::number;
  return c == ' ' || (c >= '\t' && c <= '\r') ? CharacterClass::space : CharacterClass::other;
}

}  // namespace tangram
