#include "kernels/magnitudes.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaMagnitudes : public CudaTest {};

TEST_P(CudaMagnitudes, MatchesCpu) {
  const Tensor x = host(p.N, p.C, p.dtype, 1), sum = host(1, p.C, DType::f32, 2);
  const Tensor gx = upload(x), gsum = upload(sum);
  add_column_magnitudes(sum, x, cpu);
  add_column_magnitudes(gsum, gx, *gpu);
  expect_close(gsum, sum, double(p.N), "sum");
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaMagnitudes, kCudaShapes);
INSTANTIATE_TEST_SUITE_P(ManyRows, CudaMagnitudes,
                         testing::Values(CudaShape{700, 40, DType::bf16, true}, CudaShape{515, 3, DType::f32, false}));

}  // namespace
}  // namespace tangram
