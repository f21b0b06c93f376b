#include "kernels/greedy.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaGreedy : public CudaTest {};

TEST_P(CudaGreedy, MatchesCpu) {
  const Tensor logits = host(p.N, p.C, DType::f32, 1);
  const auto put = [&](int64_t n, int64_t c, float value) {
    if (n < p.N) set(logits, n, c % p.C, value);
  };
  put(0, 5, 50), put(0, p.C - 1, 50);                                       // a tie
  put(1, 3, std::numeric_limits<float>::quiet_NaN()), put(1, 9, INFINITY);  // so is this
  for (int64_t c = 0; c < p.C; ++c) put(2, c, -INFINITY);
  const Tensor ids = arena.tensor(1, p.N, DType::i32), past = arena.tensor(1, p.N, DType::i32);
  const Tensor best = arena.tensor(1, p.N, DType::f32);
  for (int64_t n = 0; n < p.N; ++n) past.as<int32_t>()[n] = int32_t(10 * n);
  const Tensor gids = memory->tensor(1, p.N, DType::i32), gpast = memory->tensor(1, p.N, DType::i32);
  const Tensor gbest = memory->tensor(1, p.N, DType::f32), glogits = upload(logits);
  transfer(gpast, past, *gpu);
  greedy_step(ids, best, past, logits, cpu);
  greedy_step(gids, gbest, gpast, glogits, *gpu);
  EXPECT_TRUE(same_bytes(download(gids), ids));
  EXPECT_TRUE(same_bytes(download(gpast), past));
  EXPECT_TRUE(same_bytes(download(gbest), best));
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaGreedy,
                         testing::Values(CudaShape{0, 8, DType::f32, true}, CudaShape{1, 1, DType::f32, true},
                                         CudaShape{4, 37, DType::f32, false}, CudaShape{3, 4400, DType::f32, true},
                                         CudaShape{5, 3001, DType::f32, false}));

}  // namespace
}  // namespace tangram
