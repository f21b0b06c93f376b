#include "blocks/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/error.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxWrite = size_t{1} << 30;  // Linux writes at most 2 GiB in one call
constexpr int64_t kWriteBehind = 32 << 20;

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

Error input_error(const fs::path& path, std::string_view what) {
  return bad_input("{}: {}: {}", path.string(), what, std::strerror(errno));
}

Error output_error(const fs::path& path, std::string_view what) {
  return Error(fmt::format("{}: {}: {}", path.string(), what, std::strerror(errno)));
}

int open_for_reading(const fs::path& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw input_error(path, "cannot be read");
  return fd;
}

// `a/b/` names the folder b as `a/b` does.
fs::path without_slash(const fs::path& path) { return path.has_filename() ? path : path.parent_path(); }

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

fs::path temporary_name(const fs::path& path) {
  if (!path.has_filename()) throw bad_input("'{}' is no name for a file", path.string());
  return folder_of(path) / fmt::format(".{}.{}.tmp", path.filename().string(), getpid());
}

// A new name is on disk only when its folder is.
void sync_folder(const fs::path& folder) {
  const Descriptor d{open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (d.fd < 0) throw output_error(folder, "cannot be opened");
  // Some network file systems know no fsync of a folder and say EINVAL; there is nothing more to do on them.
  if (fsync(d.fd) != 0 && errno != EINVAL) throw output_error(folder, "cannot be synced");
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) {
  const Descriptor file{open_for_reading(path)};
  struct stat status;
  if (fstat(file.fd, &status) != 0) throw input_error(path, "cannot be read");
  if (!S_ISREG(status.st_mode)) throw bad_input("{}: is no regular file", path.string());
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;  // nothing can be mapped
  void* p = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (p == MAP_FAILED) throw input_error(path, fmt::format("{} bytes cannot be mapped", size_));
  data_ = static_cast<char*>(p);
}

MappedFile::~MappedFile() {
  if (data_) munmap(data_, size_);
}

static void advise(const void* data, int64_t bytes, int advice) {
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (first + page - 1) / page * page, end = (first + static_cast<uintptr_t>(bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, advice);
}

void advise_soon(const void* data, int64_t bytes) { advise(data, bytes, MADV_WILLNEED); }
void advise_done(const void* data, int64_t bytes) { advise(data, bytes, MADV_PAGEOUT); }

std::string read_text_file(const fs::path& path, int64_t max_bytes) {
  const Descriptor file{open_for_reading(path)};
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t count = read(file.fd, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw input_error(path, "cannot be read");
    if (count == 0) return text;
    text.append(buffer, static_cast<size_t>(count));
    if (std::cmp_greater(text.size(), max_bytes))
      throw bad_input("{}: larger than the {} bytes that are allowed", path.string(), max_bytes);
  }
}

AtomicFile::AtomicFile(const fs::path& path)
    : path_(path),
      temporary_(temporary_name(path)),
      fd_(open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw output_error(temporary_, "cannot be created");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  CHECK(fd_ >= 0, "{} is committed", path_.string());
  const size_t wanted = bytes.size();
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd_, bytes.data(), std::min(bytes.size(), kMaxWrite));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw output_error(path_, fmt::format("cannot write {} bytes after {}", wanted, written_));
    bytes.remove_prefix(static_cast<size_t>(count));
  }
  written_ += static_cast<int64_t>(wanted);
  // The disk begins now, and not only when commit waits for it. Where a file system cannot, commit does it all.
  if (written_ - on_its_way_ >= kWriteBehind) {
    sync_file_range(fd_, on_its_way_, written_ - on_its_way_, SYNC_FILE_RANGE_WRITE);
    on_its_way_ = written_;
  }
}

void AtomicFile::commit() {
  CHECK(fd_ >= 0, "{} is committed", path_.string());
  // Where space is allocated late, a full disk shows only here.
  if (fsync(fd_) != 0) throw output_error(path_, fmt::format("cannot sync {} bytes", written_));
  if (rename(temporary_.c_str(), path_.c_str()) != 0) throw output_error(path_, "cannot be put in place");
  if (close(std::exchange(fd_, -1)) != 0) throw output_error(path_, fmt::format("cannot close {} bytes", written_));
  sync_folder(folder_of(path_));
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void create_folder(const fs::path& path) {
  if (fs::is_directory(path)) return;
  const fs::path named = without_slash(path), above = folder_of(named);
  create_folder(above);
  if (mkdir(named.c_str(), 0777) != 0 && (errno != EEXIST || !fs::is_directory(named)))
    throw output_error(named, "cannot be created");
  sync_folder(above);
}

AtomicFolder::AtomicFolder(const fs::path& target)
    : target_(without_slash(target)), temporary_(temporary_name(target_)) {
  std::error_code error;
  fs::remove_all(temporary_, error);  // of a killed process that had our number
  if (!error) fs::create_directories(temporary_, error);
  if (error) throw Error(fmt::format("{}: cannot be created: {}", temporary_.string(), error.message()));
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  CHECK(!temporary_.empty(), "{} is committed", target_.string());
  sync_folder(temporary_);
  const fs::path old = temporary_name(temporary_);
  std::error_code ignored;
  const bool replaces = fs::is_directory(target_, ignored);
  if (replaces && rename(target_.c_str(), old.c_str()) != 0) throw output_error(target_, "cannot be replaced");
  if (rename(temporary_.c_str(), target_.c_str()) != 0) {
    const Error error = output_error(target_, "cannot be put in place");
    if (replaces) rename(old.c_str(), target_.c_str());
    throw error;
  }
  temporary_.clear();
  sync_folder(folder_of(target_));
  if (replaces) fs::remove_all(old, ignored);
}

}  // namespace tangram
