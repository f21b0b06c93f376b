#include "kernels/matmul.h"
#include "kernels/matmul_cuda.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

// N columns of c; C is K.
class CudaMatmul : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped())
      gpu = std::make_unique<Context>(
          Context::Options{.device = Device::cuda, .scratch_bytes = cuda::kMatmulWorkspaceBytes});
  }
};

TEST_P(CudaMatmul, MatchesCpuForEveryTransposition) {
  constexpr int64_t kColumns = 12;
  const int64_t M = p.N, K = p.C;
  for (const auto ta : {Transpose::no, Transpose::yes})
    for (const auto tb : {Transpose::no, Transpose::yes}) {
      const Tensor a = ta == Transpose::no ? host(M, K, p.dtype, 1) : host(K, M, p.dtype, 1);
      const Tensor b = tb == Transpose::no ? host(K, kColumns, p.dtype, 2) : host(kColumns, K, p.dtype, 2);
      const Tensor ga = upload(a), gb = upload(b);
      for (const bool accumulate : {false, true})
        for (const DType dtype : {p.dtype, DType::f32}) {
          const Tensor c = host(M, kColumns, dtype, 3), gc = upload(c);
          matmul(c, a, ta, b, tb, accumulate, cpu);
          matmul(gc, ga, ta, gb, tb, accumulate, *gpu);
          expect_close(gc, c, double(K), "c");
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaMatmul, kCudaShapes);

TEST(CudaMatmulChoices, AreKeptAsText) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  const Context::Options options{.device = Device::cuda, .scratch_bytes = cuda::kMatmulWorkspaceBytes};
  Context first(options), second(options);
  const MatmulShape shape{64, 32, 48, 48, 48, 32, false, true, false, DType::bf16, DType::bf16, 64};
  cuda::choose_matmul(shape, first);
  const std::string text = cuda::matmul_choices(first);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  EXPECT_EQ(cuda::load_matmul_choices(text, second), 1);
  EXPECT_EQ(cuda::matmul_choices(second), text);
  EXPECT_EQ(cuda::load_matmul_choices("another GPU\n" + text, second), 0);
  EXPECT_THROW(cuda::load_matmul_choices(text + "1 2 x\n", second), Error);
}

TEST(PlannedMatmul, IsCountedAndNotComputed) {
  Context planner({.device = Device::cuda, .planning = true});
  Arena memory = Arena::planner(Device::cuda);
  const Tensor x = memory.tensor(16, 32, DType::bf16), w = memory.tensor(8, 32, DType::bf16);
  const Tensor y = memory.tensor(16, 8, DType::bf16);
  matmul_forward(y, x, w, planner);
  EXPECT_EQ(planner.matmul_flops, 2.0 * 16 * 32 * 8);
  EXPECT_EQ(planner.scratch.peak_bytes(), cuda::kMatmulWorkspaceBytes);
  ASSERT_EQ(planner.planned_matmuls.size(), 1u);
  EXPECT_EQ(planner.planned_matmuls.begin()->alignment, 16) << "rows of y are 16 bytes";
}

}  // namespace
}  // namespace tangram
