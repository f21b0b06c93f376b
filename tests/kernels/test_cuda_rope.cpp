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

// Positions that only the GPU knows; its cosine and ours may differ in the last bit of f64, hence by one of f32.
TEST_P(CudaRope, AnglesMatchCpu) {
  std::vector<int32_t> positions;
  for (int64_t n = 0; n < p.N; ++n) positions.push_back(int32_t(13007 * n));
  const Indices sent = send(positions, *memory, *gpu);
  for (const int64_t D : {2, 6, 128}) {
    const std::vector<double> frequencies = rope_frequencies(D, 5e5, RopeScaling{.factor = 8});
    const Tensor rope = host(p.N, D, DType::f32, 1), grope = upload(rope);
    rope_angles(rope, positions, frequencies);
    rope_angles(grope, Indices({}, view_of(sent.on_device(*gpu), 1, p.N)), frequencies, *gpu);
    const Tensor found = download(grope);
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t i = 0; i < D; ++i) ASSERT_NEAR(get(found, n, i), get(rope, n, i), 0x1p-23) << n << ", " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaRope, kCudaShapes);

}  // namespace
}  // namespace tangram
