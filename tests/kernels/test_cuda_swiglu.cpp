#include "kernels/swiglu.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

constexpr double kTerms = 8;  // roundings of a sigmoid and of the products with it

class CudaSwiglu : public CudaTest {};

TEST_P(CudaSwiglu, MatchesCpu) {
  const Tensor gate = host(p.N, p.C, p.dtype, 1), up = host(p.N, p.C, p.dtype, 2), dh = host(p.N, p.C, p.dtype, 3);
  for (int64_t c = 0; c < std::min<int64_t>(gate.size(), 4); ++c)  // what e^x and 1 / x take to their ends
    set(gate, 0, std::min(c, p.C - 1), std::array{-200.0, 200.0, -88.0, 0.0}[size_t(c)]);
  const Tensor y = arena.tensor(p.N, p.C, p.dtype), dup = arena.tensor(p.N, p.C, p.dtype);
  const Tensor ggate = upload(gate), gup = upload(up), gdh = upload(dh), gy = upload(y), gdup = upload(y);
  swiglu_forward(y, gate, up, cpu);
  swiglu_forward(gy, ggate, gup, *gpu);
  expect_close(gy, y, kTerms, "h");

  swiglu_backward(y, dup, dh, gate, up, cpu);
  swiglu_backward(gy, gdup, gdh, ggate, gup, *gpu);
  expect_close(gy, y, kTerms, "dgate");
  expect_close(gdup, dup, kTerms, "dup");
  swiglu_backward(ggate, gdh, gdh, ggate, gup, *gpu);
  expect_close(ggate, y, kTerms, "dgate in place of gate");
  expect_close(gdh, dup, kTerms, "dup in place of dh");
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaSwiglu, kCudaShapes);

}  // namespace
}  // namespace tangram
