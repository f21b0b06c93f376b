#pragma once
#include <gtest/gtest.h>

#include <random>

#include "kernels/attention.h"
#include "tests/kernels/attention_reference.h"
#include "tests/kernels/tensors.h"

// Inputs and results of attention in a packed batch or in pages, for the tests of the CPU and of the GPU.

namespace tangram {

constexpr double kF32 = 0x1p-24;
constexpr int64_t kNoWindow = std::numeric_limits<int64_t>::max();

struct Case {
  AttentionShape shape;
  std::vector<int64_t> lengths;
  DType dtype = DType::f32;
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    out << c.shape.heads << "/" << c.shape.kv_heads << " heads of " << c.shape.head_dim << " " << name_of(c.dtype)
        << " lengths";
    for (const int64_t length : c.lengths) out << " " << length;
    return out;
  }
};

inline std::vector<int32_t> offsets_of(const std::vector<int64_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (const int64_t length : lengths) offsets.push_back(offsets.back() + int32_t(length));
  return offsets;
}

inline Matrix rows_of(Tensor x, int64_t first, int64_t count) {
  Matrix m{count, x.cols};
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < x.cols; ++c) m(r, c) = get(x, first + r, c);
  return m;
}

// Whether x equals `expected` within relative * size, and a rounding to x's dtype.
inline bool near(Tensor x, int64_t first, const Matrix& expected, const Matrix& size, double relative,
                 const char* name) {
  for (int64_t r = 0; r < expected.rows; ++r)
    for (int64_t c = 0; c < expected.cols; ++c) {
      const double tolerance = relative * size(r, c) + 1.01 * unit_roundoff(x.dtype) * std::abs(expected(r, c)) + 1e-30;
      if (std::abs(get(x, first + r, c) - expected(r, c)) <= tolerance) continue;
      ADD_FAILURE() << name << "[" << first + r << "," << c << "] = " << get(x, first + r, c) << ", expected "
                    << expected(r, c) << " +- " << tolerance;
      return false;
    }
  return true;
}

// The tensors of one training step.
struct Step {
  AttentionShape shape;
  std::vector<int32_t> offsets;
  Tensor q, k, v, dout, out, lse, dq, dk, dv;

  Step(const Case& c, Arena& arena) : shape(c.shape), offsets(offsets_of(c.lengths)) {
    const int64_t N = offsets.back(), Q = shape.heads * shape.head_dim, KV = shape.kv_heads * shape.head_dim;
    q = random_tensor(arena, N, Q, c.dtype, 1), k = random_tensor(arena, N, KV, c.dtype, 2);
    v = random_tensor(arena, N, KV, c.dtype, 3), dout = random_tensor(arena, N, Q, c.dtype, 4);
    out = strided_tensor(arena, N, Q, c.dtype), dq = strided_tensor(arena, N, Q, c.dtype);
    dk = strided_tensor(arena, N, KV, c.dtype), dv = strided_tensor(arena, N, KV, c.dtype);
    lse = strided_tensor(arena, N, shape.heads, DType::f32);
  }
  void run(Context& ctx) {
    attention_forward(out, lse, q, k, v, shape, offsets, ctx);
    attention_backward(dq, dk, dv, dout, out, lse, q, k, v, shape, offsets, ctx);
  }
  // Sequence s of this step as a step of its own.
  Step sequence(size_t s) const {
    Step one = *this;
    for (Tensor* x : {&one.q, &one.k, &one.v, &one.dout, &one.out, &one.lse, &one.dq, &one.dk, &one.dv})
      *x = x->row_range(offsets[s], offsets[s + 1] - offsets[s]);
    one.offsets = {0, offsets[s + 1] - offsets[s]};
    return one;
  }
  AttentionReference reference(size_t s) const {
    const int64_t first = offsets[s], tokens = offsets[s + 1] - first;
    AttentionReference r{shape,
                         tokens,
                         rows_of(q, first, tokens),
                         rows_of(k, first, tokens),
                         rows_of(v, first, tokens),
                         rows_of(dout, first, tokens)};
    r.forward(), r.backward();
    return r;
  }
  // `out` against the definition.
  void expect_out_near_f64() const {
    for (size_t s = 0; s + 1 < offsets.size(); ++s) {
      AttentionReference r = reference(s);
      expect_out_near_f64(r, offsets[s]);
    }
  }
  void expect_out_near_f64(const AttentionReference& r, int64_t first) const {
    const double relative = r.p_error() + 1.01 * unit_roundoff(q.dtype) + double(r.tokens) * kF32;
    EXPECT_TRUE(near(out, first, r.out, r.out_size, relative, "out"));
  }
  // All results against the definition. In bf16, p and ds are rounded on their way into the products, and delta comes
  // from the rounded `out`.
  void expect_near_f64() const {
    const double D = double(shape.head_dim), group = double(shape.heads / shape.kv_heads);
    for (size_t s = 0; s + 1 < offsets.size(); ++s) {
      const AttentionReference r = reference(s);
      const int64_t first = offsets[s];
      const double T = double(r.tokens), rounding = 1.01 * unit_roundoff(q.dtype), e = r.p_error();
      expect_out_near_f64(r, first);
      EXPECT_TRUE(near(lse, first, r.lse, Matrix{r.lse.rows, r.lse.cols, std::vector<double>(r.lse.values.size(), 1)},
                       e, "lse"));
      const double ds = e + (2 * D + 4) * kF32 + 2 * rounding;
      EXPECT_TRUE(near(dq, first, r.dq, r.dq_size, ds + T * kF32, "dq"));
      EXPECT_TRUE(near(dk, first, r.dk, r.dk_size, ds + T * group * kF32, "dk"));
      EXPECT_TRUE(near(dv, first, r.dv, r.dv_size, e + rounding + T * group * kF32, "dv"));
    }
  }
};

// Pages in shuffled order, one of them unused.
struct Cache {
  KvPages pages;
  std::vector<int32_t> table;
  int64_t pages_per_sequence;
  PageTable page_table() const { return {table, pages_per_sequence}; }

  Cache(const Case& c, int64_t page_tokens, Arena& arena) {
    int64_t longest = 0;
    for (const int64_t length : c.lengths) longest = std::max(longest, length);
    pages_per_sequence = ceil_div(longest, page_tokens) + 1;
    const int64_t count = int64_t(c.lengths.size()) * pages_per_sequence;
    const int64_t rows = (count + 1) * page_tokens, cols = c.shape.kv_heads * c.shape.head_dim;
    pages = {strided_tensor(arena, rows, cols, c.dtype), strided_tensor(arena, rows, cols, c.dtype), page_tokens};
    for (int64_t i = 0; i < count; ++i) table.push_back(int32_t(i));
    std::shuffle(table.begin(), table.end(), std::mt19937(1));
  }
};

}  // namespace tangram
