#include "kernels/elementwise.h"
#include "kernels/graph.h"
#include "kernels/matmul.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class GraphTest : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
    if (GetParam() == Device::cuda && cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    ctx = std::make_unique<Context>(Context::Options{.device = GetParam(), .scratch_bytes = 1 << 26});
    memory = std::make_unique<Arena>(1 << 20, GetParam());
    one = memory->tensor(1, 3, DType::f32), sum = memory->tensor(1, 3, DType::f32);
    fill(one, 1), fill(sum, 0);
  }
  void fill(Tensor x, float value) {
    const std::vector<float> values(3, value);
    transfer(x, view_of(values.data(), 1, 3), *ctx);
  }
  float first(Tensor x) {
    float values[3];
    transfer(view_of(values, 1, 3), x, *ctx);
    return values[0];
  }

  std::unique_ptr<Context> ctx;
  std::unique_ptr<Arena> memory;
  Tensor one, sum;
};

TEST_P(GraphTest, DoesItsWorkAgainOnWhatMemoryHolds) {
  Graph graph([&] { add(sum, sum, one, *ctx); });
  for (int i = 0; i < 3; ++i) graph.launch(*ctx);
  EXPECT_EQ(first(sum), 3);
  fill(one, 10);
  for (int i = 0; i < 2; ++i) graph.launch(*ctx);
  EXPECT_EQ(first(sum), 23);
}

// A product, a copy, zeros and scratch memory.
TEST_P(GraphTest, RecordsEveryKindOfOperation) {
  const Tensor x = memory->tensor(40, 3, DType::f32), w = memory->tensor(1, 3, DType::f32);
  const Tensor y = memory->tensor(40, 1, DType::f32);
  fill_zero(x, *ctx);
  Graph graph([&] {
    ArenaScope scope(ctx->scratch);
    const Tensor z = ctx->scratch.tensor(40, 3, DType::f32);
    fill_zero(z, *ctx);
    copy(z.row_range(0, 1), one, *ctx);
    add(x, x, z, *ctx);
    copy(w, sum, *ctx);
    matmul_forward(y, x, w, *ctx);
  });
  for (int i = 1; i <= 4; ++i) {
    fill(sum, float(i));
    graph.launch(*ctx);
    std::vector<float> values(40);
    transfer(view_of(values.data(), 40, 1), y, *ctx);
    EXPECT_EQ(values[0], float(3 * i * i));  // i rows of ones, times i
    EXPECT_EQ(values[39], 0);
  }
}

TEST_P(GraphTest, RefusesScratchMemoryThatIsInUse) {
  Graph graph([&] {
    ArenaScope scope(ctx->scratch);
    copy(ctx->scratch.tensor(1, 3, DType::f32), one, *ctx);
  });
  for (int i = 0; i < 2; ++i) graph.launch(*ctx);
  ArenaScope scope(ctx->scratch);
  ctx->scratch.tensor(1, 3, DType::f32);
  if (GetParam() == Device::cuda)
    EXPECT_THROW(graph.launch(*ctx), Error);
  else
    graph.launch(*ctx);
}

TEST_P(GraphTest, AnErrorEndsTheRecording) {
  bool fail = true;
  Graph graph([&] {
    add(sum, sum, one, *ctx);
    if (std::exchange(fail, !fail)) return;
    throw Error("on purpose");
  });
  graph.launch(*ctx);
  EXPECT_THROW(graph.launch(*ctx), Error);
  add(sum, sum, one, *ctx);  // at once, not recorded
  EXPECT_EQ(first(sum), GetParam() == Device::cuda ? 2 : 3);
  graph.launch(*ctx);
  EXPECT_EQ(first(sum), GetParam() == Device::cuda ? 3 : 4);
}

// It would move what the host's memory holds whenever the graph is launched.
TEST_P(GraphTest, RefusesToRecordATransferFromOrToTheHost) {
  if (GetParam() == Device::cpu) GTEST_SKIP() << "the CPU records nothing";
  std::vector<float> values(3, 5);
  const Tensor host = view_of(values.data(), 1, 3);
  Graph sends([&] { transfer(sum, host, *ctx); }), receives([&] { transfer(host, sum, *ctx); });
  for (Graph* graph : {&sends, &receives}) {
    graph->launch(*ctx);  // as it is
    try {
      graph->launch(*ctx);
      FAIL() << "it was recorded";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("while a graph is being recorded"), std::string::npos) << e.what();
    }
  }
  add(sum, sum, one, *ctx);
  EXPECT_EQ(first(sum), 6) << "the stream goes on";
}

INSTANTIATE_TEST_SUITE_P(Devices, GraphTest, testing::Values(Device::cpu, Device::cuda));

}  // namespace
}  // namespace tangram
