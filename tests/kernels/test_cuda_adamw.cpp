#include "kernels/adamw.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

/// A tensor to update on both devices.
struct Pair {
  AdamWTensor here, there;
};

class CudaAdamW : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = 1 << 20});
    memory = std::make_unique<Arena>(1 << 22, Device::cuda);
  }

  // Those of the GPU lie `offset` elements behind an aligned address, before one that holds kGap.
  Pair make(int64_t count, int64_t offset, std::optional<DType> copy_dtype) {
    Pair pair;
    const auto fill = [&](Tensor AdamWTensor::*member, DType dtype, double scale, bool positive) {
      const Tensor x = arena.tensor(1, count, dtype);
      for (int64_t i = 0; i < count; ++i) {
        const double value = scale * random_normal(++seed, 0, uint64_t(i));
        set(x, 0, i, positive ? std::abs(value) : value);
      }
      const Tensor wide = memory->tensor(1, offset + count + 1, dtype), gx = wide.col_range(offset, count);
      const Tensor gap = arena.tensor(1, 1, dtype);
      set(gap, 0, 0, kGap);
      transfer(gx, x, *gpu);
      transfer(wide.col_range(offset + count, 1), gap, *gpu);
      pair.here.*member = x, pair.there.*member = gx;
    };
    fill(&AdamWTensor::master, DType::f32, 1, false);
    fill(&AdamWTensor::moment1, DType::f32, 1, false);
    fill(&AdamWTensor::moment2, DType::f32, 1, true);
    fill(&AdamWTensor::grad, DType::f32, 3, false);
    if (copy_dtype) fill(&AdamWTensor::copy, *copy_dtype, 1, false);
    for (AdamWTensor* t : {&pair.here, &pair.there})
      t->weight_decay = 0.1, t->learning_rate_factor = 0.5, t->grad_scale = 1.0 / double(count + 1);
    return pair;
  }
  void expect_close(Tensor found, Tensor expected, const char* what, int64_t count) {
    const Tensor f = arena.tensor(1, count + 1, found.dtype);
    found.cols = count + 1;
    transfer(f, found, *gpu);
    EXPECT_EQ(get(f, 0, count), kGap) << what << " of " << count;
    for (int64_t i = 0; i < count; ++i)
      ASSERT_NEAR(get(f, 0, i), get(expected, 0, i),
                  2 * unit_roundoff(f.dtype) * std::abs(get(expected, 0, i)) + 16 * 0x1p-24)
          << what << " of " << count << " at " << i;
  }

  Context cpu{{.threads = 1}};
  std::unique_ptr<Context> gpu;
  std::unique_ptr<Arena> memory;
  Arena arena{1 << 22};
  uint64_t seed = 0;
};

TEST_F(CudaAdamW, ManyTensorsMatchCpu) {
  const std::vector<Pair> pairs = {make(1, 0, {}),          make(8192, 0, DType::bf16), make(8192, 1, DType::bf16),
                                   make(0, 0, DType::bf16), make(17003, 0, DType::f32), make(30, 0, DType::bf16),
                                   make(4099, 3, {})};
  std::vector<AdamWTensor> here, there;
  for (const Pair& p : pairs) here.push_back(p.here), there.push_back(p.there);
  for (int64_t step = 1; step <= 3; ++step) {
    const AdamWStep s{.learning_rate = 0.01, .step = step, .grad_scale = 2, .zero_grads = step == 2};
    adamw(here, s, cpu);
    adamw(there, s, *gpu);
    for (const Pair& p : pairs) {
      const int64_t count = p.here.master.cols;
      expect_close(p.there.master, p.here.master, "master", count);
      expect_close(p.there.moment1, p.here.moment1, "moment1", count);
      expect_close(p.there.moment2, p.here.moment2, "moment2", count);
      expect_close(p.there.grad, p.here.grad, "grad", count);
      if (p.here.copy.data) expect_close(p.there.copy, p.here.copy, "copy", count);
    }
  }
  adamw({}, {}, *gpu);
}

}  // namespace
}  // namespace tangram
