#pragma once
#include <cstdint>

// Memory of the GPU. Kernels see it through Arena.

namespace tangram::cuda {

/// Throws Error with what is free if the GPU has not so much left.
void* allocate(int64_t bytes);
void release(void* p) noexcept;

/// Of the first GPU, as far as this process and others have left it; makes the GPU's context if there is none.
struct MemoryState {
  int64_t free_bytes, total_bytes;
};
MemoryState memory_state();

/// Addresses of the GPU that memory is laid under as it is needed, from the first on.
class AddressRange {
 public:
  explicit AddressRange(int64_t bytes);
  ~AddressRange();
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;

  /// Sees to it that the first `bytes` are there; returns how many are. Throws Error with what is free if they cannot
  /// be.
  int64_t commit(int64_t bytes);
  void* base() const { return base_; }

 private:
  void* base_ = nullptr;
  int64_t reserved_ = 0, committed_ = 0;
};

}  // namespace tangram::cuda
