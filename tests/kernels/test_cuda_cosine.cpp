#include "kernels/cosine.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaCosine : public CudaTest {};

TEST_P(CudaCosine, MatchesCpu) {
  for (const DType teacher_dtype : {DType::f32, DType::bf16}) {
    const Tensor x = host(p.N, p.C, p.dtype, 1), y = host(p.N, p.C, teacher_dtype, 2);
    const Tensor dx = host(p.N, p.C, p.dtype, 3), loss = arena.tensor(1, p.N, DType::f32);
    if (p.N > 2)
      for (int64_t c = 0; c < p.C; ++c) {
        set(x, 1, c, 0);             // no direction
        set(y, 2, c, get(x, 2, c));  // the same one, as far as the dtypes allow
      }
    const Tensor gx = upload(x), gy = upload(y), gdx = upload(dx), gloss = memory->tensor(1, p.N, DType::f32);
    cosine_forward(loss, x, y, cpu);
    cosine_forward(gloss, gx, gy, *gpu);
    expect_close(gloss, loss, 0, "loss");
    cosine_backward(dx, x, y, 3.5f, cpu);
    cosine_backward(gdx, gx, gy, 3.5f, *gpu);
    expect_close(gdx, dx, 0, "dx");
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaCosine, kCudaShapes);
INSTANTIATE_TEST_SUITE_P(LongRows, CudaCosine, kCudaLongRows);

}  // namespace
}  // namespace tangram
