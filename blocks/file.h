#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tangram {

/// A whole file, mapped read-only: its bytes cost no memory beyond the page cache. A write through `bytes` is a
/// segmentation fault, and so is a read after another process has cut the file short; replacing it by a rename is safe.
class MappedFile {
 public:
  /// Throws Error (bad_input) if there is no regular file at `path` or it cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return {data_, size_}; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

/// Advice to the system about memory that is mapped from a file: it will be read soon; nobody reads it for now. Whole
/// pages within it; no content is lost, whatever memory it is.
void advise_soon(const void* data, int64_t bytes);
void advise_done(const void* data, int64_t bytes);

/// The content of a file of at most `max_bytes`. Throws Error (bad_input) if there is none or it is larger.
std::string read_text_file(const std::filesystem::path& path, int64_t max_bytes);

/// A file that appears under its name when it is complete: it is written as `.<name>.<process>.tmp` in the same folder,
/// synced and renamed. At any time the whole old content or the whole new one stands at `path`, whatever is killed.
/// Throws Error naming the file, the bytes wanted and the system's reason, such as a full disk.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  /// Without commit the temporary file is removed and `path` stays as it was.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes);
  /// Syncs and renames; nothing can be written afterwards.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  int64_t written_ = 0;
  int64_t on_its_way_ = 0;  // bytes that the system was told to bring to the disk
};

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

/// Creates a folder, and those above it where they are missing; their names are on disk when it returns.
void create_folder(const std::filesystem::path& path);

/// The same as AtomicFile for a folder: fill `path()` with files that are synced themselves, such as an AtomicFile's,
/// then commit.
class AtomicFolder {
 public:
  /// Creates the temporary folder beside `target`, and the folders above it where they are missing.
  explicit AtomicFolder(const std::filesystem::path& target);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  /// Syncs and renames. A folder that stands at the target is replaced; a process killed in between leaves none there.
  void commit();

 private:
  std::filesystem::path target_, temporary_;
};

}  // namespace tangram
