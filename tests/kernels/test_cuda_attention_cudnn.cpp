#include "kernels/attention_cudnn.h"
#include "kernels/cuda_devices.h"
#include "kernels/transfer.h"
#include "tests/kernels/attention_step.h"

namespace tangram {
namespace {

// Hand values: two sequences of 3 and 1 tokens, rounded up to four of at most 4.
TEST(CudaAttentionLists, ListsSequencesAndMovesStats) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  Context gpu({.device = Device::cuda, .scratch_bytes = 1 << 20});
  Arena memory(1 << 20, Device::cuda), arena(1 << 20);
  const auto upload = [&](Tensor x) {
    const Tensor y = memory.tensor(x.rows, x.cols, x.dtype);
    return transfer(y, x, gpu), y;
  };
  const auto values = [&](Tensor x) {
    std::vector<double> all;
    const Tensor y = arena.tensor(x.rows, x.cols, x.dtype);
    transfer(y, x, gpu);
    for (int64_t i = 0; i < y.size(); ++i)
      all.push_back(x.dtype == DType::i64   ? double(y.as<int64_t>()[i])
                    : x.dtype == DType::i32 ? double(y.as<int32_t>()[i])
                                            : double(y.as<float>()[i]));
    return all;
  };
  std::vector<int32_t> offsets{0, 3, 4};
  const cuda::DeviceIndices batch{upload(view_of(offsets.data(), 1, 3)).as<int32_t>(), nullptr, nullptr, 2};

  const Tensor lengths = memory.tensor(1, 4, DType::i32), starts = memory.tensor(8, 5, DType::i64);
  cuda::list_sequences(lengths, starts, {10, 1}, batch, gpu);
  EXPECT_EQ(values(lengths), (std::vector<double>{3, 1, 0, 0}));
  EXPECT_EQ(values(starts.row_range(0, 2)), (std::vector<double>{0, 30, 40, 40, 40, 0, 3, 4, 4, 4}));

  std::vector<float> lse{1, 2, 9, 3, 4, 9, 5, 6, 9, 7, 8, 9};  // two of three heads of four tokens
  const Tensor on_gpu = upload(view_of(lse.data(), 4, 3)), stats = memory.tensor(8, 4, DType::f32);
  cuda::gather_stats(stats, on_gpu.col_range(0, 2), 2, 0, batch, gpu);
  const std::vector<double> expected{1, 3, 5, 0, 2, 4, 6, 0, 7, 0, 0, 0, 8, 0, 0, 0};
  const std::vector<double> found = values(stats);
  EXPECT_EQ(std::vector<double>(found.begin(), found.begin() + 16), expected);
  std::vector<float> zeros(12, 0);
  transfer(on_gpu, view_of(zeros.data(), 4, 3), gpu);
  cuda::scatter_stats(on_gpu.col_range(0, 2), stats, 2, 0, batch, gpu);
  EXPECT_EQ(values(on_gpu), (std::vector<double>{1, 2, 0, 3, 4, 0, 5, 6, 0, 7, 8, 0}));
}

class CudnnPlan : public testing::Test {
 protected:
  void SetUp() override {
    if (!cuda::kCudnnBuilt) GTEST_SKIP() << "built without cuDNN";
  }
  std::optional<cuda::CudnnAttention> plan(bool backward, const AttentionShape& shape, std::vector<int32_t> offsets,
                                           DType dtype = DType::bf16) {
    Context ctx({.device = Device::cuda, .planning = true});
    const ArenaScope scope(ctx.scratch);
    const Tensor x = ctx.scratch.tensor(offsets.back(), shape.heads * shape.head_dim, dtype);
    return cuda::cudnn_attention(backward, {x}, shape, offsets, ctx);
  }
};

TEST_F(CudnnPlan, CutsTheBackwardPassIntoCallsOfBoundedWorkspace) {
  const auto whole = plan(true, {64, 8, 128}, {0, 8192, 16384});
  ASSERT_TRUE(whole);
  EXPECT_FALSE(whole->ragged);
  EXPECT_EQ(whole->sequences_at_once, 1);
  EXPECT_EQ(whole->kv_at_once, 4);  // of 32 heads: 4 GiB of dp, 0.4 GiB beside it
  EXPECT_LE(whole->workspace_bytes, int64_t{5} << 30);
  EXPECT_EQ(plan(false, {64, 8, 128}, {0, 8192, 16384})->kv_at_once, 8);
  EXPECT_FALSE(plan(true, {64, 1, 128}, {0, 8192, 16384}));  // all heads share one key/value head: 8 GiB of dp
}

TEST_F(CudnnPlan, RoundsLengthsThatDiffer) {
  const auto ragged = plan(false, {8, 2, 64}, {0, 100, 300, 305});
  ASSERT_TRUE(ragged && ragged->ragged);
  EXPECT_EQ(ragged->sequences, 4);
  EXPECT_EQ(ragged->longest, 256);
}

TEST_F(CudnnPlan, LeavesTheRestToTheOtherKernels) {
  EXPECT_FALSE(plan(false, {8, 2, 64}, {0, 100}, DType::f32));
  EXPECT_FALSE(plan(false, {8, 2, 36}, {0, 100}));
  EXPECT_FALSE(plan(false, {8, 2, 256}, {0, 100}));
  EXPECT_FALSE(plan(false, {8, 2, 64}, {0, 1}));
}

}  // namespace
}  // namespace tangram
