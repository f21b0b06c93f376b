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

class CudaMatmulChoices : public testing::Test {
 protected:
  static constexpr int64_t kM = 64, kN = 32, kK = 48;

  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  }
  std::unique_ptr<Context> context() const {
    return std::make_unique<Context>(
        Context::Options{.device = Device::cuda, .scratch_bytes = cuda::kMatmulWorkspaceBytes});
  }
  // The bits of a product of the same random numbers.
  std::vector<float> product(Context& ctx) const {
    Arena host(1 << 20), memory(1 << 20, Device::cuda);
    const auto random = [&](int64_t rows, int64_t cols, uint64_t seed) {
      const Tensor x = host.tensor(rows, cols, DType::f32), there = memory.tensor(rows, cols, DType::f32);
      for (int64_t i = 0; i < x.size(); ++i) x.as<float>()[i] = float(random_normal(seed, 0, uint64_t(i)));
      transfer(there, x, ctx);
      return there;
    };
    const Tensor c = memory.tensor(kM, kN, DType::f32);
    matmul(c, random(kM, kK, 1), Transpose::no, random(kN, kK, 2), Transpose::yes, false, ctx);
    std::vector<float> values(size_t(c.size()));
    transfer(view_of(values.data(), kM, kN), c, ctx);
    return values;
  }
};

TEST_F(CudaMatmulChoices, AreKeptAsText) {
  const auto first = context(), second = context();
  const MatmulShape shape{kM, kN, kK, kK, kK, kN, false, true, false, DType::bf16, DType::bf16, 64};
  cuda::choose_matmul(shape, *first);
  const std::string text = cuda::matmul_choices(*first);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  EXPECT_EQ(cuda::load_matmul_choices(text, *second), 1);
  EXPECT_EQ(cuda::matmul_choices(*second), text);
  EXPECT_EQ(cuda::load_matmul_choices("another GPU\n" + text, *second), std::nullopt);
  EXPECT_THROW(cuda::load_matmul_choices(text + "1 2 x\n", *second), Error);
}

TEST_F(CudaMatmulChoices, AreMadeWhenAShapeIsFirstMet) {
  const auto first = context(), second = context(), none = context();
  int chosen = 0;
  cuda::choose_matmuls(
      2.0 * kM * kN * kK, [&] { ++chosen; }, *first);
  const std::vector<float> values = product(*first);
  EXPECT_EQ(chosen, 1);
  EXPECT_EQ(product(*first), values);
  EXPECT_EQ(chosen, 1) << "the second product has the shape of the first";

  cuda::choose_matmuls(
      2.0 * kM * kN * kK, [&] { ++chosen; }, *second);
  EXPECT_EQ(cuda::load_matmul_choices(cuda::matmul_choices(*first), *second), 1);
  EXPECT_EQ(product(*second), values);
  EXPECT_EQ(chosen, 1) << "what was loaded is not measured again";

  cuda::choose_matmuls(
      2.0 * kM * kN * kK + 1, [&] { ++chosen; }, *none);
  product(*none);
  EXPECT_EQ(chosen, 1) << "the product is smaller than those to choose for";
}

// The algorithm that was loaded is the one that multiplies: of the emulator's, the second adds up backwards.
TEST_F(CudaMatmulChoices, SteerTheProduct) {
  if (cuda_devices()[0].name != "emulated GPU") GTEST_SKIP() << "which bits an algorithm gives is only known there";
  const auto first = context(), second = context();
  cuda::choose_matmuls(
      0, [] {}, *first);
  const std::vector<float> values = product(*first);
  std::string text = cuda::matmul_choices(*first);
  const size_t word = text.find(" 0000000000000000");
  ASSERT_NE(word, std::string::npos) << text;
  text.replace(word, 17, " 0000000000000001");
  EXPECT_EQ(cuda::load_matmul_choices(text, *second), 1);
  EXPECT_NE(product(*second), values);
}

TEST(PlannedMatmul, IsCountedAndNotComputed) {
  Context planner({.device = Device::cuda, .planning = true});
  Arena memory = Arena::planner(Device::cuda);
  const Tensor x = memory.tensor(16, 32, DType::bf16), w = memory.tensor(8, 32, DType::bf16);
  const Tensor y = memory.tensor(16, 8, DType::bf16);
  matmul_forward(y, x, w, planner);
  EXPECT_EQ(planner.matmul_flops, 2.0 * 16 * 32 * 8);
  EXPECT_EQ(planner.scratch.peak_bytes(), cuda::kMatmulWorkspaceBytes);
}

}  // namespace
}  // namespace tangram
