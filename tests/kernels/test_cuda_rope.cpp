#include "kernels/rope.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaRope : public CudaTest {};

TEST_P(CudaRope, MatchesCpu) {
  for (const int64_t D : {2, 6, 16, 128}) {
    const int64_t heads = ceil_div(p.C, D);
    std::vector<int32_t> positions;
    for (int64_t n = 0; n < p.N; ++n) positions.push_back(int32_t(1000 * n + 3));
    const Tensor x = host(p.N, heads * D, p.dtype, 1), rope = host(p.N, D, DType::f32, 2);
    rope_angles(rope, positions, rope_frequencies(D, 1e4, {}));
    const Tensor gx = upload(x), grope = upload(rope), original = clone(arena, x);
    rope_forward(x, rope, cpu);
    rope_forward(gx, grope, *gpu);
    expect_close(gx, x, 0, "y");
    copy(x, original);
    transfer(gx, x, *gpu);
    rope_backward(x, rope, cpu);
    rope_backward(gx, grope, *gpu);
    expect_close(gx, x, 0, "dx");
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaRope, kCudaShapes);

}  // namespace
}  // namespace tangram
