// The CUDA operations against those of the CPU, whose own tests have independent oracles. Runs on a GPU, or on kernels
// that are emulated (tests/emulator), whichever the program was linked with.

#include <gtest/gtest.h>

#include "kernels/cuda_devices.h"
#include "kernels/rmsnorm.h"
#include "kernels/transfer.h"
#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

struct Shape {
  int64_t N, C;
  DType dtype;
  bool aligned;  // rows that 16-byte accesses can take, or columns of a wider matrix that starts at an odd place
};

class CudaTest : public testing::TestWithParam<Shape> {
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
  // Equal but for the order of sums of `terms` values: a few roundings of the largest magnitude, and one to the dtype.
  void expect_close(Tensor found, Tensor expected, double terms, const char* what) {
    const Tensor f = download(found);
    double largest = 0;
    for (int64_t r = 0; r < f.rows; ++r)
      for (int64_t c = 0; c < f.cols; ++c) largest = std::max(largest, std::abs(get(expected, r, c)));
    for (int64_t r = 0; r < f.rows; ++r)
      for (int64_t c = 0; c < f.cols; ++c) {
        const double e = get(expected, r, c);
        ASSERT_NEAR(get(f, r, c), e, 2 * unit_roundoff(f.dtype) * std::abs(e) + (terms + 8) * 0x1p-24 * largest)
            << what << " at " << r << ", " << c;
      }
  }

  const Shape p = GetParam();
  Context cpu{{.threads = 1}};
  std::unique_ptr<Context> gpu;
  std::unique_ptr<Arena> memory;
  Arena arena{1 << 26};
};

TEST_P(CudaTest, Rmsnorm) {
  constexpr float kEps = 1e-5f;
  const Tensor x = host(p.N, p.C, p.dtype, 1), w = host(1, p.C, p.dtype, 2), dy = host(p.N, p.C, p.dtype, 3);
  const Tensor residual = host(p.N, p.C, p.dtype, 4), dw = host(1, p.C, DType::f32, 5);
  const Tensor y = arena.tensor(p.N, p.C, p.dtype), rstd = arena.tensor(1, p.N, DType::f32);
  const Tensor gx = upload(x), gw = upload(w), gdy = upload(dy), gresidual = upload(residual), gdw = upload(dw);
  const Tensor gy = upload(y), grstd = memory->tensor(1, p.N, DType::f32);
  rmsnorm_forward(y, rstd, x, w, kEps, cpu);
  rmsnorm_forward(gy, grstd, gx, gw, kEps, *gpu);
  expect_close(gy, y, double(p.C), "y");
  expect_close(grstd, rstd, double(p.C), "rstd");

  rmsnorm_backward(residual, dw, dy, x, w, rstd, cpu, true);
  rmsnorm_backward(gresidual, gdw, gdy, gx, gw, grstd, *gpu, true);
  expect_close(gresidual, residual, double(p.C), "dx accumulated");
  expect_close(gdw, dw, double(p.N), "dw");
  rmsnorm_backward(dy, {}, dy, x, w, rstd, cpu, false);
  rmsnorm_backward(gdy, {}, gdy, gx, gw, grstd, *gpu, false);
  expect_close(gdy, dy, double(p.C), "dx in place of dy");
  rmsnorm_forward(gx, grstd, gx, gw, kEps, *gpu);
  expect_close(gx, y, double(p.C), "y in place of x");
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaTest,
                         testing::Values(Shape{0, 8, DType::f32, true}, Shape{1, 1, DType::f32, true},
                                         Shape{1, 37, DType::f32, false}, Shape{5, 64, DType::f32, true},
                                         Shape{7, 1032, DType::f32, true}, Shape{7, 129, DType::f32, false},
                                         Shape{3, 2048, DType::bf16, true}, Shape{9, 264, DType::bf16, false},
                                         Shape{19, 8, DType::bf16, true}));

TEST(Cuda, RefusesTensorsOfAnotherDevice) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  Context gpu({.device = Device::cuda, .scratch_bytes = 1 << 20});
  Arena arena(1 << 16), memory(1 << 16, Device::cuda);
  const Tensor x = arena.tensor(2, 4, DType::f32), w = arena.tensor(1, 4, DType::f32);
  const Tensor rstd = arena.tensor(1, 2, DType::f32);
  EXPECT_THROW(rmsnorm_forward(x, rstd, x, w, 1e-5f, gpu), Error);
  EXPECT_THROW(rmsnorm_forward(memory.tensor(2, 4, DType::f32), rstd, x, w, 1e-5f, gpu), Error);
}

}  // namespace
}  // namespace tangram
