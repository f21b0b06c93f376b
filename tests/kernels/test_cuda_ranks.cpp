#include <random>

#include "kernels/communicator.h"
#include "kernels/nccl.h"
#include "tests/kernels/cuda_test.h"

// What a Communicator does on a GPU, as far as one GPU can show it: the order of its sums, bit for bit that of the CPU
// (tests/kernels/test_ranks_sum.cpp), and NCCL's calls between a rank and itself.

namespace tangram {
namespace {

class CudaRanks : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = 1 << 20});
    memory = std::make_unique<Arena>(1 << 24, Device::cuda);
  }
  Tensor random(int64_t count, DType dtype, uint64_t seed) {
    const Tensor x = arena.tensor(1, count, dtype);
    for (int64_t i = 0; i < count; ++i) set(x, 0, i, random_normal(seed, uint64_t(count), uint64_t(i)));
    return x;
  }
  Tensor upload(Tensor x) {
    const Tensor there = memory->tensor(x.rows, x.cols, x.dtype);
    transfer(there, x, *gpu);
    return there;
  }
  void expect_same_bits(Tensor there, Tensor expected, const std::string& what) {
    const Tensor x = arena.tensor(there.rows, there.cols, there.dtype);
    transfer(x, there, *gpu);
    EXPECT_EQ(std::memcmp(x.data, expected.data, size_t(x.bytes())), 0) << what;
  }

  std::unique_ptr<Context> gpu;
  std::unique_ptr<Arena> memory;
  Arena arena{1 << 26};
};

TEST_F(CudaRanks, TreeSumHasTheBitsOfTheCpu) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int ranks : {1, 2, 3, 5, 8, 13, 64, 256})
      for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{1000}}) {
        std::vector<Tensor> here, there;
        const int64_t mark = memory->mark();
        for (int r = 0; r < ranks; ++r) {
          here.push_back(random(count, dtype, uint64_t(r)));
          there.push_back(upload(here.back()));
        }
        const Tensor sum = arena.tensor(1, count, dtype);
        tree_sum(sum, here);
        tree_sum(there[size_t(ranks / 2)], there, *gpu);  // into one of its parts
        expect_same_bits(there[size_t(ranks / 2)], sum, fmt::format("{} x {} {}", ranks, count, name_of(dtype)));
        memory->rewind(mark);
      }
}

TEST_F(CudaRanks, NcclMovesBytesOnItsOwnStream) {
  if (const std::string why_not = cuda::why_no_nccl(); !why_not.empty()) GTEST_SKIP() << why_not;
  cuda::Nccl nccl(cuda::Nccl::new_id(), 0, 1, gpu->stream);
  const Tensor x = random(300'001, DType::f32, 1), there = upload(x);
  const Tensor received = memory->tensor(1, x.cols, DType::f32);
  const std::vector<cuda::Nccl::Part> parts = {{there.data, there.bytes(), 0, true},
                                               {received.data, received.bytes(), 0, false}};
  nccl.begin();
  nccl.transfer(parts);
  nccl.broadcast(received, 0);
  nccl.sum(there, std::vector<Tensor>{there, received});
  const std::shared_ptr<cuda::NcclWork> work = nccl.end();
  nccl.join(*work);
  expect_same_bits(received, x, "sent");  // on the context's stream, which has waited
  const Tensor twice = arena.tensor(1, x.cols, DType::f32);
  for (int64_t i = 0; i < x.cols; ++i) twice.as<float>()[i] = 2 * x.as<float>()[i];
  expect_same_bits(there, twice, "summed");
  EXPECT_TRUE(work->has_started() && work->is_finished());
  EXPECT_EQ(nccl.failure(), "");
}

}  // namespace
}  // namespace tangram
