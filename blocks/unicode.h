#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace tangram {

/// What the bytes at the start of a text are in UTF-8 (RFC 3629: no overlong form, no surrogate, at most U+10FFFF).
enum class Utf8 {
  character,  ///< one whole character
  invalid,    ///< bytes that no following byte can make a character
  cut_off,    ///< a character whose last bytes are missing: the text ends inside it
};

struct Utf8Step {
  Utf8 kind;
  size_t bytes;  ///< 1 to 4; of an invalid sequence, the longest start of a character (at least 1)
};

/// What stands at the start of `text`, which must not be empty.
Utf8Step utf8_step(std::string_view text);

/// The code point of one whole character.
uint32_t code_point_of(std::string_view character);

/// The character of a code point that is no surrogate.
std::string character_of(uint32_t code_point);

/// Offset of the first byte of `text` that belongs to no whole character; npos if there is none.
size_t find_invalid_utf8(std::string_view text);

/// The character U+FFFD, which stands for bytes that are not UTF-8.
inline constexpr std::string_view kReplacementCharacter = "\uFFFD";

/// Moves the whole characters at the start of `bytes` to the result, one U+FFFD for every invalid sequence. A character
/// cut off at the end stays in `bytes` unless `last`, which replaces it as well.
std::string take_characters(std::string& bytes, bool last);

/// `text` with U+FFFD for every invalid sequence, as WHATWG's decoder and Python's bytes.decode(errors="replace") put
/// it: one for the longest start of a character, or for a byte that begins none.
std::string replace_invalid_utf8(std::string_view text);

/// `text` for a terminal or a log: control characters but those in `kept`, and bytes that are no UTF-8, become \xNN.
std::string printable(std::string_view text, std::string_view kept = {});

/// `character` (one UTF-8 character, or one stray byte) for an error message: "'é' (U+00E9)", "U+000A", "byte 0xFF".
std::string describe_character(std::string_view character);

}  // namespace tangram
