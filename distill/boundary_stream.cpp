#include "distill/boundary_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "blocks/model.h"
#include "blocks/safetensors.h"
#include "kernels/transfer.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTensorName = "residual";

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

fs::path partial_path(fs::path path) { return path.replace_extension(".partial"); }

std::string header_of(const BoundaryShape& shape) {
  const int64_t tokens = shape.batches * shape.batch_tokens;
  const NamedTensor tensor{kTensorName,
                           {nullptr, tokens, shape.hidden_size, shape.hidden_size, shape.dtype, Device::cpu}};
  return safetensors_header(std::span(&tensor, 1));
}

}  // namespace

fs::path boundary_path(const fs::path& folder, int64_t layer) { return folder / fmt::format("{}.safetensors", layer); }

double IoTimes::hidden_fraction() const {
  const double busy = read_seconds + write_seconds;
  return busy > 0 ? std::max(0.0, 1 - waited_seconds / busy) : 1;
}

IoTimes& IoTimes::operator+=(const IoTimes& other) {
  read_seconds += other.read_seconds, write_seconds += other.write_seconds, waited_seconds += other.waited_seconds;
  bytes_read += other.bytes_read, bytes_written += other.bytes_written;
  return *this;
}

/// A boundary file that is read or written batch by batch.
class BoundaryStream::File {
 public:
  static std::unique_ptr<File> open_to_read(const fs::path& path, const BoundaryShape& shape) {
    auto file = std::unique_ptr<File>(new File(path, O_RDONLY, shape));
    file->check_header();
    posix_fadvise(file->fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
    return file;
  }

  static std::unique_ptr<File> open_to_write(const fs::path& path, const BoundaryShape& shape, bool anew) {
    auto file = std::unique_ptr<File>(new File(path, anew ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR, shape));
    if (!anew) {
      file->check_header();
      return file;
    }
    const int64_t bytes = file->offset_ + shape.bytes();
    // All room at once: a full disk ends the run before the work. Not every file system can.
    if (fallocate(file->fd_, 0, 0, bytes) != 0 && errno != EOPNOTSUPP && errno != ENOSYS) file->fail("reserve", bytes);
    if (ftruncate(file->fd_, bytes) != 0) file->fail("reserve", bytes);
    file->all_of_it(pwrite, "write", file->header_.data(), std::ssize(file->header_), 0);
    return file;
  }

  ~File() { close(fd_); }

  void read(int64_t batch, void* to) {
    const int64_t bytes = shape_.batch_bytes(), at = offset_ + batch * bytes;
    all_of_it(pread, "read", static_cast<char*>(to), bytes, at);
    posix_fadvise(fd_, at, bytes, POSIX_FADV_DONTNEED);
  }

  void write(int64_t batch, const void* from) {
    const int64_t bytes = shape_.batch_bytes(), at = offset_ + batch * bytes;
    all_of_it(pwrite, "write", static_cast<char*>(const_cast<void*>(from)), bytes, at);
    constexpr unsigned kToDisk =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;  // data, not yet metadata
    sync_file_range(fd_, at, bytes, kToDisk);
    posix_fadvise(fd_, at, bytes, POSIX_FADV_DONTNEED);
  }

  void sync() {
    if (fdatasync(fd_) != 0) fail("sync", offset_ + shape_.bytes());
  }

 private:
  File(const fs::path& path, int flags, const BoundaryShape& shape)
      : path_(path), shape_(shape), header_(header_of(shape)), offset_(std::ssize(header_)) {
    fd_ = open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("open", offset_ + shape.bytes());
  }

  [[noreturn]] void fail(const char* what, int64_t bytes) const {
    throw Error(fmt::format("{}: cannot {} {} bytes: {}", path_.string(), what, bytes, std::strerror(errno)));
  }

  void check_header() {
    struct stat status {};
    std::string found(header_.size(), '\0');
    const bool same = fstat(fd_, &status) == 0 && status.st_size == offset_ + shape_.bytes() &&
                      pread(fd_, found.data(), found.size(), 0) == std::ssize(found) && found == header_;
    if (!same)
      throw bad_input("{}: this is not the boundary of {} tokens x {} {} that this run needs; delete it",
                      path_.string(), shape_.batches * shape_.batch_tokens, shape_.hidden_size, name_of(shape_.dtype));
  }

  template <class Call>
  void all_of_it(Call call, const char* what, char* data, int64_t bytes, int64_t at) {
    for (int64_t done = 0; done < bytes;) {
      const ssize_t n = call(fd_, data + done, static_cast<size_t>(bytes - done), at + done);
      if (n < 0 && errno == EINTR) continue;
      if (n == 0) errno = EIO;  // shorter than its header says
      if (n <= 0) fail(what, bytes);
      done += n;
    }
  }

  fs::path path_;
  BoundaryShape shape_;
  std::string header_;
  int64_t offset_;
  int fd_ = -1;
};

BoundaryStream::BoundaryStream(const fs::path& from, const fs::path& to, const BoundaryShape& shape, int64_t first,
                               Context& ctx)
    : shape_(shape),
      device_(ctx.device),
      threads_(ctx.threads),
      to_(to),
      memory_(device_bytes(shape), ctx.device),
      read_(first),
      taken_(first),
      given_(first),
      written_(first) {
  for (Tensor& slot : slots_) slot = memory_.tensor(shape.batch_tokens, shape.hidden_size, shape.dtype);
  if (!from.empty()) in_ = File::open_to_read(from, shape);
  if (!to.empty()) out_ = File::open_to_write(partial_path(to), shape, first == 0);
  if (in_) reader_ = std::thread([this] { run_guarded([this] { read_ahead(); }); });
  if (out_) writer_ = std::thread([this] { run_guarded([this] { write_behind(); }); });
}

BoundaryStream::~BoundaryStream() { stop(); }

int64_t BoundaryStream::device_bytes(const BoundaryShape& shape) {
  Arena planner = Arena::planner();
  for (int64_t i = 0; i < kSlots; ++i) planner.tensor(shape.batch_tokens, shape.hidden_size, shape.dtype);
  return planner.used_bytes();
}

void BoundaryStream::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (reader_.joinable()) reader_.join();
  if (writer_.joinable()) writer_.join();
}

template <class F>
void BoundaryStream::run_guarded(F work) {
  try {
    work();
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
  }
  changed_.notify_all();
}

namespace {

/// A thread's own way between files and a device: a context, whose stream runs beside the computation's, and memory of
/// the host in between.
class Passage {
 public:
  Passage(Device device, const BoundaryShape& shape)
      : context_({.device = device, .threads = 1, .scratch_bytes = 0}),
        staging_(device == Device::cpu ? 0 : shape.batch_bytes()) {
    if (device == Device::cpu) return;
    host_ = staging_.tensor(shape.batch_tokens, shape.hidden_size, shape.dtype);
  }

  /// Where the file's side of `slot` is.
  Tensor host(Tensor slot) const { return host_.data ? host_ : slot; }
  void move(Tensor to, Tensor from) {
    if (to.data != from.data) transfer(to, from, context_);
    synchronize(context_);
  }

 private:
  Context context_;
  Arena staging_;
  Tensor host_;
};

}  // namespace

void BoundaryStream::read_ahead() {
  Passage passage(device_, shape_);
  std::unique_lock lock(mutex_);
  while (read_ < shape_.batches) {
    changed_.wait(lock, [&] { return stopping_ || failure_ || read_ < written_ + kSlots; });
    if (stopping_ || failure_) return;
    const Tensor slot = slots_[read_ % kSlots];
    lock.unlock();
    const Stopwatch watch;
    in_->read(read_, passage.host(slot).data);
    passage.move(slot, passage.host(slot));
    const double seconds = watch.seconds();
    lock.lock();
    times_.read_seconds += seconds, times_.bytes_read += shape_.batch_bytes();
    ++read_;
    changed_.notify_all();
  }
}

void BoundaryStream::write_behind() {
  Passage passage(device_, shape_);
  std::unique_lock lock(mutex_);
  while (written_ < shape_.batches) {
    changed_.wait(lock, [&] { return stopping_ || failure_ || written_ < given_; });
    if (stopping_ || failure_) return;
    const Tensor slot = slots_[written_ % kSlots];
    lock.unlock();
    const Stopwatch watch;
    passage.move(passage.host(slot), slot);
    out_->write(written_, passage.host(slot).data);
    const double seconds = watch.seconds();
    lock.lock();
    times_.write_seconds += seconds, times_.bytes_written += shape_.batch_bytes();
    ++written_;
    changed_.notify_all();
  }
}

template <class Ready>
void BoundaryStream::wait_for(std::unique_lock<std::mutex>& lock, Ready ready) {
  const Stopwatch watch;
  changed_.wait(lock, [&] { return failure_ || ready(); });
  times_.waited_seconds += watch.seconds();
  if (failure_) std::rethrow_exception(failure_);
}

Tensor BoundaryStream::take() {
  std::unique_lock lock(mutex_);
  CHECK(taken_ == given_ && taken_ < shape_.batches, "micro-batch {} of {}, {} given back", taken_, shape_.batches,
        given_);
  wait_for(lock, [&] { return in_ ? taken_ < read_ : taken_ < written_ + kSlots; });
  return slots_[taken_++ % kSlots];
}

void BoundaryStream::give_back() {
  const std::lock_guard lock(mutex_);
  CHECK(given_ < taken_, "micro-batch {} was not taken", given_);
  ++given_;
  if (!out_) written_ = given_;
  changed_.notify_all();
}

void BoundaryStream::flush() {
  if (!out_) return;
  std::unique_lock lock(mutex_);
  wait_for(lock, [&] { return written_ == given_; });
  const Stopwatch watch;
  out_->sync();
  times_.write_seconds += watch.seconds(), times_.waited_seconds += watch.seconds();
}

void BoundaryStream::finish() {
  CHECK(given_ == shape_.batches, "{} of {} micro-batches", given_, shape_.batches);
  flush();
  if (out_) fs::rename(partial_path(to_), to_);
}

IoTimes BoundaryStream::times() const {
  const std::lock_guard lock(mutex_);
  return times_;
}

}  // namespace tangram
