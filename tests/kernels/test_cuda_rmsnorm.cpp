#include "kernels/rmsnorm.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaRmsnorm : public CudaTest {
 protected:
  // The largest of the gradients to the normalised values, from which dx takes what points along x.
  double largest_slope(Tensor dy, Tensor w, Tensor rstd) {
    double largest = 0;
    for (int64_t n = 0; n < dy.rows; ++n)
      for (int64_t c = 0; c < dy.cols; ++c)
        largest = std::max(largest, std::abs(get(dy, n, c) * get(w, 0, c) * get(rstd, 0, n)));
    return largest;
  }
};

TEST_P(CudaRmsnorm, MatchesCpu) {
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

  const double slope = largest_slope(dy, w, rstd);
  rmsnorm_backward(residual, dw, dy, x, w, rstd, cpu, true);
  rmsnorm_backward(gresidual, gdw, gdy, gx, gw, grstd, *gpu, true);
  expect_close(gresidual, residual, double(p.C), "dx accumulated", slope);
  expect_close(gdw, dw, double(p.N), "dw");
  rmsnorm_backward(dy, {}, dy, x, w, rstd, cpu, false);
  rmsnorm_backward(gdy, {}, gdy, gx, gw, grstd, *gpu, false);
  expect_close(gdy, dy, double(p.C), "dx in place of dy", slope);
  rmsnorm_forward(gx, grstd, gx, gw, kEps, *gpu);
  expect_close(gx, y, double(p.C), "y in place of x");
}

// The sum is rounded, so that both devices normalise the same values.
TEST_P(CudaRmsnorm, AddsFirst) {
  constexpr float kEps = 1e-5f;
  const Tensor x = host(p.N, p.C, p.dtype, 1), w = host(1, p.C, p.dtype, 2), residual = host(p.N, p.C, p.dtype, 3);
  const Tensor gx = upload(x), gw = upload(w), gresidual = upload(residual), gy = upload(x), gsum = upload(x);
  const Tensor y = arena.tensor(p.N, p.C, p.dtype), rstd = arena.tensor(1, p.N, DType::f32);
  const Tensor sum = arena.tensor(p.N, p.C, p.dtype), grstd = memory->tensor(1, p.N, DType::f32);
  add_rmsnorm_forward(y, sum, rstd, x, residual, w, kEps, cpu);
  add_rmsnorm_forward(gy, gsum, grstd, gx, gresidual, gw, kEps, *gpu);
  EXPECT_TRUE(same_bytes(download(gsum), sum));
  expect_close(gy, y, double(p.C), "y");
  expect_close(grstd, rstd, double(p.C), "rstd");
  add_rmsnorm_forward(gx, gresidual, grstd, gx, gresidual, gw, kEps, *gpu);
  EXPECT_TRUE(same_bytes(download(gresidual), sum)) << "in place of residual";
  expect_close(gx, y, double(p.C), "y in place of x");
}

TEST_P(CudaRmsnorm, GradientOfTheWeightAlone) {
  const Tensor x = host(p.N, p.C, p.dtype, 1), w = host(1, p.C, p.dtype, 2), dy = host(p.N, p.C, p.dtype, 3);
  const Tensor rstd = host(1, p.N, DType::f32, 4), dw = host(1, p.C, DType::f32, 5);
  const Tensor gx = upload(x), gw = upload(w), gdy = upload(dy), grstd = upload(rstd), gdw = upload(dw);
  rmsnorm_backward({}, dw, dy, x, w, rstd, cpu, false);
  rmsnorm_backward({}, gdw, gdy, gx, gw, grstd, *gpu, false);
  expect_close(gdw, dw, double(p.N), "dw");
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaRmsnorm, kCudaShapes);
INSTANTIATE_TEST_SUITE_P(LongRows, CudaRmsnorm, kCudaLongRows);

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
