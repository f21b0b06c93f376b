#include "kernels/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/cuda_devices.h"
#include "kernels/device_memory.h"

namespace tangram {

#if !TANGRAM_HAS_CUDA
cuda::AddressRange::~AddressRange() = default;  // an arena's pointer to one asks for it; there never is one
#endif

// No processor maps this address: a planner's tensors are not empty ones, and to touch them is a crash.
static constexpr uintptr_t kNowhere = uintptr_t{1} << 62;
static constexpr int64_t kAlignment = 64;  // a cache line, and the width of an AVX-512 register

Arena::Arena(int64_t capacity_bytes, Device device)
    : capacity_(std::max<int64_t>(capacity_bytes, kAlignment)), device_(device) {
  if (device == Device::cuda) {
    if constexpr (kCudaBuilt) base_ = static_cast<char*>(cuda::allocate(capacity_));
    CHECK(base_, "this program was built without CUDA");
    return;
  }
  void* p = mmap(nullptr, static_cast<size_t>(capacity_), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED)
    throw Error(fmt::format("cannot reserve {} bytes of memory: {}", capacity_bytes, std::strerror(errno)));
  madvise(p, static_cast<size_t>(capacity_), MADV_HUGEPAGE);  // fewer page faults and TLB misses; advice only
  base_ = static_cast<char*>(p);
}

Arena Arena::planner(Device device) {
  Arena arena;
  arena.planner_ = true;
  arena.device_ = device;
  arena.capacity_ = INT64_MAX;
  return arena;
}

Arena Arena::growing(int64_t capacity_bytes, Device device) {
  if (device == Device::cpu) return Arena(capacity_bytes);
  Arena arena;
  arena.device_ = device;
  arena.capacity_ = std::max(capacity_bytes, kAlignment);
  if constexpr (kCudaBuilt) {
    arena.range_ = std::make_unique<cuda::AddressRange>(arena.capacity_);
    arena.base_ = static_cast<char*>(arena.range_->base());
  }
  CHECK(arena.base_, "this program was built without CUDA");
  return arena;
}

Arena::Arena() = default;

Arena::Arena(Arena&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)),
      peak_(other.peak_),
      range_(std::move(other.range_)),
      committed_(other.committed_),
      planner_(other.planner_),
      device_(other.device_) {}

Arena::~Arena() {
  if (base_ && device_ == Device::cpu) munmap(base_, static_cast<size_t>(capacity_));
  if constexpr (kCudaBuilt)
    if (base_ && device_ == Device::cuda && !range_) cuda::release(base_);
}

Tensor Arena::tensor(int64_t rows, int64_t cols, DType dtype) {
  CHECK(rows >= 0 && cols >= 0, "a tensor of ({}, {})", rows, cols);
  const int64_t bytes = round_up(rows * cols * size_of(dtype), kAlignment);
  CHECK(bytes <= capacity_ - used_, "arena full: {} bytes wanted, {} of {} left", bytes, capacity_ - used_, capacity_);
  if constexpr (kCudaBuilt)
    if (range_ && used_ + bytes > committed_) committed_ = range_->commit(used_ + bytes);
  char* data = (planner_ ? reinterpret_cast<char*>(kNowhere) : base_) + used_;
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return {data, rows, cols, cols, dtype, device_};
}

}  // namespace tangram
