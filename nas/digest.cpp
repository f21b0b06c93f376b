#include "nas/digest.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#include "kernels/error.h"

namespace tangram {
namespace {

constexpr uintmax_t kSampleBytes = uintmax_t{8} << 20;

void add_range(Digest& digest, std::ifstream& file, uintmax_t offset, uintmax_t bytes) {
  std::string buffer(bytes, '\0');
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(buffer.data(), static_cast<std::streamsize>(bytes));
  buffer.resize(static_cast<size_t>(file.gcount()));
  digest.add(buffer);
}

void add_file(Digest& digest, const std::filesystem::path& path) {
  const uintmax_t size = file_size(path);
  std::ifstream file(path, std::ios::binary);
  if (!file) throw bad_input("{}: cannot be read: {}", path.string(), std::strerror(errno));
  digest.add(fmt::format("{}\n", size));
  const bool whole = size <= 2 * kSampleBytes;
  add_range(digest, file, 0, whole ? size : kSampleBytes);
  if (!whole) add_range(digest, file, size - kSampleBytes, kSampleBytes);
}

}  // namespace

std::string Digest::text() const { return fmt::format("{:016x}", state); }

std::string fingerprint(const std::filesystem::path& path) {
  Digest digest;
  if (is_regular_file(path)) {
    add_file(digest, path);
    return digest.text();
  }
  if (!is_directory(path)) throw bad_input("{}: no such file or folder", path.string());
  std::vector<std::filesystem::path> files;
  std::error_code unreadable;  // is for whoever needs that file to say
  const auto options = std::filesystem::directory_options::skip_permission_denied;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path, options))
    if (entry.is_regular_file(unreadable)) files.push_back(entry.path().lexically_relative(path));
  std::sort(files.begin(), files.end());
  for (const std::filesystem::path& file : files) {
    digest.add(file.string() + '\n');
    add_file(digest, path / file);
  }
  return digest.text();
}

}  // namespace tangram
