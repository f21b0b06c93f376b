#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tangram {

using Sha256State = std::array<uint32_t, 8>;

/// SHA-256 (FIPS 180-4): the identity of an artefact. Takes the bytes in pieces.
class Sha256 {
 public:
  void add(std::string_view bytes);
  /// 64 hexadecimal digits; the last call.
  std::string finish();

 private:
  Sha256State state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> pending_{};
  uint64_t length_ = 0;  // bytes so far
};

/// Takes a block of 64 bytes into the state. The processor's instructions for it, where it has them, give the same.
void sha256_block_portable(Sha256State& state, const unsigned char* block);
bool has_sha_instructions();
void sha256_block_by_instructions(Sha256State& state, const unsigned char* block);

std::string digest_bytes(std::string_view bytes);
/// Throws Error (bad_input) if the file cannot be read.
std::string digest_file(const std::filesystem::path& path);

}  // namespace tangram
