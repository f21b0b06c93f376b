#include "kernels/mse.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaMse : public CudaTest {};

// Both sum up in f64: what differs is the rounding of the result.
TEST_P(CudaMse, MatchesCpu) {
  for (const DType target_dtype : {DType::f32, DType::bf16}) {
    const Tensor y = host(p.N, p.C, p.dtype, 1), target = host(p.N, p.C, target_dtype, 2);
    const Tensor loss = arena.tensor(1, 1, DType::f32), squares = arena.tensor(1, 1, DType::f32);
    const Tensor dy = arena.tensor(p.N, p.C, p.dtype);
    const Tensor gy = upload(y), gtarget = upload(target), gdy = upload(y);
    const Tensor gloss = memory->tensor(1, 1, DType::f32), gsquares = memory->tensor(1, 1, DType::f32);
    sum_squares(squares, target, cpu);
    sum_squares(gsquares, gtarget, *gpu);
    expect_close(gsquares, squares, 0, "sum of squares");

    normalized_mse(loss, dy, y, target, squares, 0.7f, cpu);
    normalized_mse(gloss, gdy, gy, gtarget, gsquares, 0.7f, *gpu);
    expect_close(gloss, loss, 0, "loss");
    expect_close(gdy, dy, 0, "dy");
    transfer(gloss, squares, *gpu);
    normalized_mse(gloss, {}, gy, gtarget, gsquares, 0.7f, *gpu);
    expect_close(gloss, loss, 0, "loss alone");
    normalized_mse(gloss, gy, gy, gtarget, gsquares, 0.7f, *gpu);
    expect_close(gy, dy, 0, "dy in place of y");
  }
}

TEST_P(CudaMse, OfATargetThatIsNoUnit) {
  const Tensor y = host(p.N, p.C, p.dtype, 1), loss = arena.tensor(1, 1, DType::f32);
  const Tensor tiny = arena.tensor(1, 1, DType::f32), dy = arena.tensor(p.N, p.C, p.dtype);
  tiny.as<float>()[0] = 1e-31f;
  const Tensor gy = upload(y), gdy = upload(y), gloss = upload(loss), gtiny = upload(tiny);
  normalized_mse(loss, dy, y, y, tiny, 2, cpu);
  normalized_mse(gloss, gdy, gy, gy, gtiny, 2, *gpu);
  expect_close(gloss, loss, 0, "loss");
  expect_close(gdy, dy, 0, "dy");
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaMse, kCudaShapes);
// A row that several blocks share.
INSTANTIATE_TEST_SUITE_P(LongRow, CudaMse, testing::Values(CudaShape{1, 5003, DType::f32, false}));

}  // namespace
}  // namespace tangram
