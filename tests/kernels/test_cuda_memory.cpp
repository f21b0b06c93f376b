#include "kernels/elementwise.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

TEST(CudaMemory, AGrowingArenaKeepsWhatItHeldAndTakesNoMoreThanItsCapacity) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  Context gpu({.device = Device::cuda, .scratch_bytes = int64_t{1} << 40});
  Arena host(1 << 20), memory = Arena::growing(100 << 20, Device::cuda);
  const Tensor before = host.tensor(1, 1000, DType::f32), after = host.tensor(1, 1000, DType::f32);
  for (int i = 0; i < 1000; ++i) before.as<float>()[i] = float(i);
  const Tensor small = memory.tensor(1, 1000, DType::f32);
  transfer(small, before, gpu);
  const Tensor large = memory.tensor(90, 1 << 18, DType::f32);  // beyond what one step of growth brought
  fill_zero(large, gpu);
  const Tensor end = large.row_range(89, 1).col_range((1 << 18) - 1000, 1000);
  copy(end, small, gpu);
  transfer(after, end, gpu);
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(after.as<float>()[i], float(i));
  EXPECT_THROW(memory.tensor(11, 1 << 18, DType::f32), Error);
}

}  // namespace
}  // namespace tangram
