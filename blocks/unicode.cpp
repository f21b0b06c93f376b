#include "blocks/unicode.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>

namespace tangram {
namespace {

struct Lead {
  size_t bytes;                    // of the whole character; 0: no character begins with this byte
  uint8_t second_min, second_max;  // the second byte excludes overlong forms, surrogates and values over U+10FFFF
};

Lead lead(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte < 0xF0) return {3, uint8_t(byte == 0xE0 ? 0xA0 : 0x80), uint8_t(byte == 0xED ? 0x9F : 0xBF)};
  if (byte < 0xF5) return {4, uint8_t(byte == 0xF0 ? 0x90 : 0x80), uint8_t(byte == 0xF4 ? 0x8F : 0xBF)};
  return {0, 0, 0};
}

// Whether eight bytes are ASCII.
bool ascii_only(const char* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return (word & 0x8080'8080'8080'8080) == 0;
}

bool is_control(uint32_t code_point) { return code_point < 0x20 || (code_point >= 0x7F && code_point < 0xA0); }

}  // namespace

uint32_t code_point_of(std::string_view character) {
  constexpr uint8_t kLeadBits[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
  uint32_t code_point = uint8_t(character[0]) & kLeadBits[character.size()];
  for (const char c : character.substr(1)) code_point = code_point << 6 | (uint8_t(c) & 0x3F);
  return code_point;
}

std::string character_of(uint32_t code_point) {
  const auto rest = [&](int shift) { return char(0x80 | (code_point >> shift & 0x3F)); };
  if (code_point < 0x80) return {char(code_point)};
  if (code_point < 0x800) return {char(0xC0 | code_point >> 6), rest(0)};
  if (code_point < 0x10000) return {char(0xE0 | code_point >> 12), rest(6), rest(0)};
  return {char(0xF0 | code_point >> 18), rest(12), rest(6), rest(0)};
}

Utf8Step utf8_step(std::string_view text) {
  const Lead l = lead(uint8_t(text[0]));
  if (l.bytes == 0) return {Utf8::invalid, 1};
  for (size_t i = 1; i < l.bytes; ++i) {
    if (i == text.size()) return {Utf8::cut_off, i};
    const uint8_t byte = uint8_t(text[i]);
    const bool follows = i == 1 ? l.second_min <= byte && byte <= l.second_max : (byte & 0xC0) == 0x80;
    if (!follows) return {Utf8::invalid, i};
  }
  return {Utf8::character, l.bytes};
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    while (i + 8 <= text.size() && ascii_only(text.data() + i)) i += 8;
    if (i == text.size()) break;
    const Utf8Step step = utf8_step(text.substr(i));
    if (step.kind != Utf8::character) return i;
    i += step.bytes;
  }
  return std::string_view::npos;
}

std::string take_characters(std::string& bytes, bool last) {
  std::string out;
  size_t i = 0;
  while (i < bytes.size()) {
    const Utf8Step step = utf8_step(std::string_view(bytes).substr(i));
    if (step.kind == Utf8::cut_off && !last) break;
    if (step.kind == Utf8::character)
      out.append(bytes, i, step.bytes);
    else
      out += kReplacementCharacter;
    i += step.bytes;
  }
  bytes.erase(0, i);
  return out;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string bytes(text);
  return take_characters(bytes, true);
}

std::string printable(std::string_view text, std::string_view kept) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = utf8_step(text.substr(i));
    const std::string_view part = text.substr(i, step.bytes);
    if (step.kind == Utf8::character && (kept.find(part) != kept.npos || !is_control(code_point_of(part))))
      out += part;
    else
      for (const char c : part) out += fmt::format("\\x{:02X}", uint8_t(c));
    i += step.bytes;
  }
  return out;
}

std::string describe_character(std::string_view character) {
  if (utf8_step(character).kind != Utf8::character) return fmt::format("byte 0x{:02X}", uint8_t(character[0]));
  const uint32_t code_point = code_point_of(character);
  return is_control(code_point) ? fmt::format("U+{:04X}", code_point)
                                : fmt::format("'{}' (U+{:04X})", character, code_point);
}

}  // namespace tangram
