#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tangram {

/// 64-bit FNV-1a (Fowler, Noll, Vo; RFC 9923). Tells accidental change from none; it withstands no forger.
struct Digest {
  uint64_t state = 0xcbf29ce484222325;

  void add(std::string_view bytes) {
    for (const char c : bytes) state = (state ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  std::string text() const;  ///< 16 hexadecimal digits
};

/// Digest of a file's content, or of a folder's files with their names in order. Of a file beyond 16 MiB it takes the
/// size, the first and the last 8 MiB: a checkpoint's other version differs in those, and terabytes are not read.
/// Throws Error if there is nothing at `path`.
std::string fingerprint(const std::filesystem::path& path);

}  // namespace tangram
