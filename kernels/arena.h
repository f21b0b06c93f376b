#pragma once
#include <memory>

#include "kernels/tensor.h"

namespace tangram {

namespace cuda {
class AddressRange;  // kernels/device_memory.h
}

/// Owns one range of memory and hands out tensors from it in order. Nothing is freed alone: `mark` and `rewind` give
/// back everything taken since, and ArenaScope does so at the end of a C++ scope.
///
/// A planner arena owns no memory: its tensors lie where nothing is, and only their sizes count. The code that lays out
/// a run's memory is executed with a planner first and with a real arena after, so the plan and the use cannot differ.
class Arena {
 public:
  /// On the CPU reserves `capacity_bytes`; the system commits pages as they are touched, filled with zeros. On a GPU
  /// takes them. Throws Error if they are not there.
  explicit Arena(int64_t capacity_bytes, Device device = Device::cpu);
  static Arena planner(Device device = Device::cpu);
  /// Takes memory as it is used for the first time, on a GPU as on the CPU. Throws Error from `tensor` if there is no
  /// more.
  static Arena growing(int64_t capacity_bytes, Device device = Device::cpu);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A contiguous tensor, aligned to 64 bytes. Its content is undefined (zero if the memory was never used before).
  /// Throws Error naming the shortage if the arena is full.
  Tensor tensor(int64_t rows, int64_t cols, DType dtype);

  int64_t mark() const { return used_; }
  void rewind(int64_t mark) { used_ = mark; }

  bool is_planner() const { return planner_; }
  Device device() const { return device_; }
  int64_t used_bytes() const { return used_; }
  int64_t peak_bytes() const { return peak_; }
  int64_t capacity_bytes() const { return capacity_; }

 private:
  Arena();
  char* base_ = nullptr;
  int64_t capacity_ = 0, used_ = 0, peak_ = 0;
  std::unique_ptr<cuda::AddressRange> range_;  ///< of a growing arena of a GPU
  int64_t committed_ = 0;                      ///< bytes of it that are there
  bool planner_ = false;
  Device device_ = Device::cpu;
};

/// Rewinds an arena to where it stood when the scope was entered.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.rewind(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  int64_t mark_;
};

}  // namespace tangram
