#include "kernels/embedding.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

class CudaEmbedding : public CudaTest {
 protected:
  std::vector<int32_t> some_tokens(int64_t count, uint64_t vocabulary) {
    std::vector<int32_t> tokens;
    for (int64_t n = 0; n < count; ++n) tokens.push_back(int32_t(random_below(vocabulary, 5, 0, uint64_t(n))));
    return tokens;
  }
  void expect_same(Tensor found, Tensor expected, const char* what) {
    EXPECT_TRUE(same_bytes(download(found), expected)) << what;
  }
};

TEST_P(CudaEmbedding, TakesRows) {
  const std::vector<int32_t> tokens = some_tokens(p.N, 11);
  const Tensor table = host(11, p.C, p.dtype, 1), y = host(p.N, p.C, p.dtype, 2);
  const Tensor gtable = upload(table), gy = upload(y), gz = upload(y);
  embedding_forward(y, table, tokens, cpu);
  embedding_forward(gy, gtable, tokens, *gpu);
  expect_same(gy, y, "y");
  const Indices sent = send(tokens, *memory, *gpu);
  embedding_forward(gz, gtable, Indices({}, view_of(sent.on_device(*gpu), 1, p.N)), *gpu);
  expect_same(gz, y, "y of tokens that only the GPU knows");
}

// Each sum in the order of the positions, so bit for bit; 3 different tokens of many, and nearly all different ones.
TEST_P(CudaEmbedding, AddsRowsInOrder) {
  for (const uint64_t vocabulary : {3, 40}) {
    const int64_t N = 5 * p.N;
    const std::vector<int32_t> tokens = some_tokens(N, vocabulary);
    const Tensor dy = host(N, p.C, p.dtype, 1), dtable = host(int64_t(vocabulary), p.C, DType::f32, 2);
    const Tensor gdy = upload(dy), gdtable = upload(dtable);
    embedding_backward(dtable, dy, tokens, cpu);
    embedding_backward(gdtable, gdy, tokens, *gpu);
    expect_same(gdtable, dtable, "dtable");
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaEmbedding, kCudaShapes);

}  // namespace
}  // namespace tangram
