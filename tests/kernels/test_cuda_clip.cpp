#include <limits>

#include "kernels/clip.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaClip : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = 1 << 20});
    memory = std::make_unique<Arena>(1 << 20, Device::cuda);
  }
  // The same normal values on both devices; those of the GPU `offset` floats behind an aligned address, between NaNs.
  void add(int64_t count, int64_t offset) {
    const Tensor x = arena.tensor(1, count, DType::f32);
    for (int64_t i = 0; i < count; ++i) x.as<float>()[i] = float(random_normal(1, uint64_t(count), uint64_t(i)));
    const std::vector<float> nans(size_t(offset + count + 1), std::nanf(""));
    const Tensor wide = memory->tensor(1, offset + count + 1, DType::f32), gx = wide.col_range(offset, count);
    transfer(wide, view_of(nans.data(), 1, wide.cols), *gpu);
    transfer(gx, x, *gpu);
    here.push_back(x);
    there.push_back(gx);
  }

  Context cpu{{.threads = 1}};
  std::unique_ptr<Context> gpu;
  std::unique_ptr<Arena> memory;
  Arena arena{1 << 20};
  std::vector<Tensor> here, there;
};

TEST_F(CudaClip, NormsMatchCpu) {
  for (const auto& [count, offset] :
       {std::pair<int64_t, int64_t>{1, 0}, {8192, 0}, {8192, 1}, {0, 0}, {20003, 0}, {16384, 0}, {5, 3}})
    add(count, offset);
  const auto expect_same = [](double found, double expected) { EXPECT_NEAR(found, expected, 1e-12 * expected); };
  expect_same(gradient_norm(there, *gpu), gradient_norm(here, cpu));

  const auto cut = [](const std::vector<Tensor>& x) {  // the second and the fourth group have no elements
    return std::vector<std::vector<Tensor>>{{x[0], x[1], x[2]}, {}, {x[4]}, {x[3]}, {x[5], x[6]}};
  };
  const std::vector<double> norms = gradient_norms(cut(there), *gpu), expected = gradient_norms(cut(here), cpu);
  ASSERT_EQ(norms.size(), expected.size());
  for (size_t g = 0; g < norms.size(); ++g) expect_same(norms[g], expected[g]);
  EXPECT_EQ(gradient_norm({}, *gpu), 0);
  EXPECT_TRUE(gradient_norms({}, *gpu).empty());
}

TEST_F(CudaClip, NormIsFiniteExactlyIfTheGradientIs) {
  add(9000, 0);
  for (const float value : {3e38f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    here[0].as<float>()[8999] = value;
    transfer(there[0], here[0], *gpu);
    EXPECT_EQ(std::isfinite(gradient_norm(there, *gpu)), std::isfinite(value));
  }
}

}  // namespace
}  // namespace tangram
