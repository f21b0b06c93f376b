#include <array>

#include "kernels/matmul.h"
#include "kernels/matvec.h"
#include "kernels/norm_matmul.h"
#include "tests/kernels/cuda_test.h"

namespace tangram {
namespace {

constexpr float kEps = 1e-5f;

class CudaMatvec : public CudaTest {
 protected:
  // Outputs: fewer than a block's, one block's, and some blocks with one that is not full.
  static constexpr int64_t kOutputs[] = {1, 16, 41};

  // x w^T in f64 of the CPU's tensors, of x / rms * norm if there is a norm, and the sum of the terms' magnitudes.
  struct Sum {
    double value = 0, magnitude = 0;
  };
  Sum product(Tensor x, int64_t n, Tensor norm, Tensor w, int64_t o) {
    double squares = 0;
    for (int64_t k = 0; k < x.cols; ++k) squares += get(x, n, k) * get(x, n, k);
    const double scale = norm.data ? 1 / std::sqrt(squares / double(x.cols) + double(kEps)) : 1;
    Sum sum;
    for (int64_t k = 0; k < x.cols; ++k) {
      const double term = get(x, n, k) * (norm.data ? scale * get(norm, 0, k) : 1) * get(w, o, k);
      sum.value += term, sum.magnitude += std::abs(term);
    }
    return sum;
  }
  // Of a sum of C terms in f32, each first rounded to T if there is a norm.
  double relative_error(bool normed) { return (double(p.C) + 8) * 0x1p-24 + (normed ? unit_roundoff(p.dtype) : 0); }
};

TEST_P(CudaMatvec, MatchesCpu) {
  if (p.N == 0) return;
  for (const int64_t O : kOutputs)
    for (const DType dtype_y : {p.dtype, DType::f32})
      for (const bool accumulate : {false, true}) {
        const Tensor x = host(p.N, p.C, p.dtype, 1), w = host(O, p.C, p.dtype, 2), y = host(p.N, O, dtype_y, 3);
        const Tensor gx = upload(x), gw = upload(w), gy = upload(y);
        matmul_forward(y, x, w, cpu, accumulate);
        matvec(gy, gx, gw, accumulate, *gpu);
        expect_close(gy, y, double(p.C), "y");
      }
}

// A token alone has the bits that it has among others.
TEST_P(CudaMatvec, TokensAreIndependent) {
  if (p.N < 2) return;
  const Tensor gx = upload(host(p.N, p.C, p.dtype, 1)), gw = upload(host(20, p.C, p.dtype, 2));
  const Tensor gy = memory->tensor(p.N, 20, p.dtype), galone = memory->tensor(1, 20, p.dtype);
  matvec(gy, gx, gw, false, *gpu);
  for (const int64_t n : {int64_t{0}, p.N - 1}) {
    matvec(galone, gx.row_range(n, 1), gw, false, *gpu);
    EXPECT_TRUE(same_bytes(download(galone), download(gy.row_range(n, 1))));
  }
}

TEST_P(CudaMatvec, NormIsPartOfTheProduct) {
  const WeightsAtRest at_rest(*gpu);
  for (const int64_t O : kOutputs) {
    const Tensor x = host(p.N, p.C, p.dtype, 1), norm = host(1, p.C, p.dtype, 2);
    const Tensor w = host(O, p.C, p.dtype, 3), other = host(3, p.C, p.dtype, 4);
    const Tensor gw = upload(w), gother = upload(other), gy = upload(host(p.N, O + 3, p.dtype, 5));
    norm_matmul(gy, {upload(x), upload(norm), kEps}, std::array<Weight, 2>{gw, gother}, *gpu);
    const Tensor y = download(gy);
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t o = 0; o < O + 3; ++o) {
        const Sum s = o < O ? product(x, n, norm, w, o) : product(x, n, norm, other, o - O);
        ASSERT_NEAR(get(y, n, o), s.value,
                    2 * unit_roundoff(p.dtype) * std::abs(s.value) + relative_error(true) * s.magnitude)
            << n << ", " << o << " of " << O;
      }
  }
}

TEST_P(CudaMatvec, SwigluIsPartOfTheProduct) {
  for (const int64_t I : {1, 8, 21}) {
    const Tensor x = host(p.N, p.C, p.dtype, 1), norm = host(1, p.C, p.dtype, 2);
    const Tensor gate = host(I, p.C, p.dtype, 3), up = host(I, p.C, p.dtype, 4);
    const Tensor gh = upload(host(p.N, I, p.dtype, 5));
    norm_matmul_swiglu(gh, {upload(x), upload(norm), kEps}, upload(gate), upload(up), *gpu);
    const Tensor h = download(gh);
    for (int64_t n = 0; n < p.N; ++n)
      for (int64_t i = 0; i < I; ++i) {
        const Sum g = product(x, n, norm, gate, i), u = product(x, n, norm, up, i);
        const double sigmoid = 1 / (1 + std::exp(-g.value)), silu = g.value * sigmoid;
        // silu's slope is at most 1.1.
        const double error =
            relative_error(true) * (1.1 * g.magnitude * std::abs(u.value) + u.magnitude * std::abs(silu) +
                                    1.1 * relative_error(true) * g.magnitude * u.magnitude);
        ASSERT_NEAR(get(h, n, i), silu * u.value,
                    2 * unit_roundoff(p.dtype) * std::abs(silu * u.value) + error + 0x1p-20 * std::abs(silu * u.value))
            << n << ", " << i << " of " << I;
      }
  }
}

// Tokens up to the most there can be; lines that are whole or not; more of them than the warps of a block take at once.
INSTANTIATE_TEST_SUITE_P(Shapes, CudaMatvec,
                         testing::Values(CudaShape{0, 8, DType::f32, true}, CudaShape{1, 1, DType::f32, true},
                                         CudaShape{1, 37, DType::f32, false}, CudaShape{3, 64, DType::f32, true},
                                         CudaShape{8, 544, DType::f32, true}, CudaShape{5, 129, DType::f32, false},
                                         CudaShape{1, 1088, DType::bf16, true}, CudaShape{2, 2112, DType::bf16, true},
                                         CudaShape{8, 128, DType::bf16, true}, CudaShape{7, 264, DType::bf16, false},
                                         CudaShape{4, 72, DType::bf16, true}, CudaShape{1, 3, DType::bf16, false}));

TEST(Cuda, MatvecRefusesMoreTokensThanItsKernels) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
  Context gpu({.device = Device::cuda, .scratch_bytes = 1 << 20});
  Arena memory(1 << 16, Device::cuda);
  const Tensor x = memory.tensor(kCudaMatvecRows + 1, 8, DType::f32), w = memory.tensor(4, 8, DType::f32);
  EXPECT_THROW(matvec(memory.tensor(kCudaMatvecRows + 1, 4, DType::f32), x, w, false, gpu), Error);
}

}  // namespace
}  // namespace tangram
