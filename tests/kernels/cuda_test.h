#pragma once
#include <gtest/gtest.h>

#include <ostream>

#include "kernels/cuda_devices.h"
#include "kernels/transfer.h"
#include "tests/kernels/tensors.h"

// The CUDA operations against those of the CPU, whose own tests have independent oracles. Runs on a GPU, or on kernels
// that are emulated (tests/emulator), whichever the program was linked with.

namespace tangram {

struct CudaShape {
  int64_t N, C;
  DType dtype;
  bool aligned;  // rows that 16-byte accesses can take, or columns of a wider matrix that starts at an odd place
};

inline void PrintTo(const CudaShape& s, std::ostream* out) {
  *out << s.N << " x " << s.C << " " << name_of(s.dtype) << (s.aligned ? "" : ", not aligned");
}

class CudaTest : public testing::TestWithParam<CudaShape> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = 1 << 20});
    memory = std::make_unique<Arena>(1 << 24, Device::cuda);
  }

  Tensor host(int64_t rows, int64_t cols, DType dtype, uint64_t seed) {
    const Tensor x = p.aligned ? arena.tensor(rows, cols, dtype) : strided_tensor(arena, rows, cols, dtype);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < cols; ++c) set(x, r, c, random_normal(seed, uint64_t(r), uint64_t(c)));
    return x;
  }
  // The same values and layout on the GPU; the gaps between rows hold kGap, as on the host.
  Tensor upload(Tensor x) {
    const Tensor wide =
        p.aligned ? memory->tensor(x.rows, x.cols, x.dtype) : memory->tensor(x.rows, x.cols + 3, x.dtype);
    if (p.aligned) return transfer(wide, x, *gpu), wide;
    const Tensor gaps = strided_tensor(arena, x.rows, x.cols, x.dtype);
    copy(gaps, x);
    Tensor whole = gaps;
    whole.data = static_cast<char*>(gaps.data) - size_of(x.dtype), whole.cols += 3;
    transfer(wide, whole, *gpu);
    return wide.col_range(1, x.cols);
  }
  Tensor download(Tensor x) {
    const Tensor y = arena.tensor(x.rows, x.cols, x.dtype);
    transfer(y, x, *gpu);
    return y;
  }
  // Equal but for the order of sums of `terms` values: a few roundings of the largest magnitude, of a result or, where
  // sums may cancel, of what is added up; and one to the dtype.
  void expect_close(Tensor found, Tensor expected, double terms, const char* what, double largest = 0) {
    const Tensor f = download(found);
    for (int64_t r = 0; r < f.rows; ++r)
      for (int64_t c = 0; c < f.cols; ++c) largest = std::max(largest, std::abs(get(expected, r, c)));
    for (int64_t r = 0; r < f.rows; ++r)
      for (int64_t c = 0; c < f.cols; ++c) {
        const double e = get(expected, r, c);
        ASSERT_NEAR(get(f, r, c), e, 2 * unit_roundoff(f.dtype) * std::abs(e) + (terms + 8) * 0x1p-24 * largest)
            << what << " at " << r << ", " << c;
      }
  }

  const CudaShape p = GetParam();
  Context cpu{{.threads = 1}};
  std::unique_ptr<Context> gpu;
  std::unique_ptr<Arena> memory;
  Arena arena{1 << 26};
};

/// Odd sizes, one row, none, aligned rows and gaps, for operations on (N, C).
inline const auto kCudaShapes = testing::Values(
    CudaShape{0, 8, DType::f32, true}, CudaShape{1, 1, DType::f32, true}, CudaShape{1, 37, DType::f32, false},
    CudaShape{5, 64, DType::f32, true}, CudaShape{7, 1032, DType::f32, true}, CudaShape{7, 129, DType::f32, false},
    CudaShape{3, 2048, DType::bf16, true}, CudaShape{9, 264, DType::bf16, false}, CudaShape{19, 8, DType::bf16, true});

/// Rows longer than what a block keeps in registers.
inline const auto kCudaLongRows =
    testing::Values(CudaShape{2, 4 * 1024 + 4 * 37, DType::f32, true}, CudaShape{2, 1024 + 37, DType::f32, false},
                    CudaShape{2, 8 * 1024 + 8 * 37, DType::bf16, true});

}  // namespace tangram
