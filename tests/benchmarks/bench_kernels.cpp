#include <fmt/core.h>

#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/peak.h"
#include "kernels/random.h"

// Time of the compute-bound operations against the machine's own bounds: the rate of a large matrix product and that of
// reading memory. Attention counts causal operations only, 2 multiply-adds of D channels for each pair of a query and a
// key that it sees, and 5 in the backward pass, as if p were not computed again.

namespace tangram {
namespace {

Tensor normal_tensor(Arena& arena, int64_t rows, int64_t cols, DType dtype) {
  const Tensor x = arena.tensor(rows, cols, dtype);
  dispatch(dtype, [&]<class T>() {
    for (int64_t i = 0; i < x.size(); ++i) x.as<T>()[i] = T(float(random_normal(1, uint64_t(i), 0)));
  });
  return x;
}

void print(const std::string& name, DType dtype, double seconds, double work, const char* unit, double bound) {
  const double rate = work / seconds * 1e-9;
  fmt::print("{:<46} {:>4} {:10.3f} ms {:8.1f} {:<7} of {:7.1f} {:6.1f} %\n", name, name_of(dtype), seconds * 1e3, rate,
             unit, bound, 100 * rate / bound);
}

void bench_matmul(DType dtype, const Peak& peak, Arena& arena, Context& ctx) {
  const auto bench = [&](const char* form, int64_t M, int64_t N, int64_t K, Transpose ta, Transpose tb, DType dtype_c) {
    const ArenaScope scope(arena);
    const bool a_t = ta == Transpose::yes, b_t = tb == Transpose::yes;
    const Tensor a = normal_tensor(arena, a_t ? K : M, a_t ? M : K, dtype);
    const Tensor b = normal_tensor(arena, b_t ? N : K, b_t ? K : N, dtype), c = arena.tensor(M, N, dtype_c);
    const double seconds = best_seconds(7, [&] { matmul(c, a, ta, b, tb, a_t, ctx); });
    print(fmt::format("matmul {} M {} N {} K {}", form, M, N, K), dtype, seconds, 2.0 * double(M * N * K), "GFLOP/s",
          peak.gflops(dtype));
  };
  for (const auto& [tokens, in, out] :
       {std::array<int64_t, 3>{4096, 1024, 1024}, {4096, 1024, 4096}, {4096, 128, 344}}) {
    bench("y = x w^T", tokens, out, in, Transpose::no, Transpose::yes, dtype);
    bench("dx = dy w", tokens, in, out, Transpose::no, Transpose::no, dtype);
    bench("dw += dy^T x", out, in, tokens, Transpose::yes, Transpose::no, DType::f32);
  }
}

void bench_matvec(DType dtype, const Peak& peak, Arena& arena, Context& ctx) {
  for (const auto& [O, K] : {std::pair<int64_t, int64_t>{16384, 4096}, {128256, 1024}}) {
    const ArenaScope scope(arena);
    const Tensor w = normal_tensor(arena, O, K, dtype);
    for (const int64_t tokens : {1, 2, 4}) {
      const Tensor x = normal_tensor(arena, tokens, K, dtype), y = arena.tensor(tokens, O, dtype);
      const double seconds = best_seconds(15, [&] { matmul_forward(y, x, w, ctx); });
      print(fmt::format("matvec {} tokens, w ({}, {})", tokens, O, K), dtype, seconds, double(w.bytes()), "GB/s",
            peak.read_gb_per_s);
    }
  }
}

struct Shape {
  int64_t sequences, tokens;
  AttentionShape attention;
  std::string text() const {
    return fmt::format("{} x {} tokens, {}/{} heads of {}", sequences, tokens, attention.heads, attention.kv_heads,
                       attention.head_dim);
  }
};

void bench_attention(const Shape& shape, DType dtype, const Peak& peak, Arena& arena, Context& ctx) {
  const ArenaScope scope(arena);
  const auto [H, G, D, window] = shape.attention;
  const int64_t N = shape.sequences * shape.tokens;
  std::vector<int32_t> offsets;
  for (int64_t s = 0; s <= shape.sequences; ++s) offsets.push_back(int32_t(s * shape.tokens));
  const Tensor q = normal_tensor(arena, N, H * D, dtype), k = normal_tensor(arena, N, G * D, dtype), v = k, dout = q;
  const Tensor out = arena.tensor(N, H * D, dtype), lse = arena.tensor(N, H, DType::f32);
  const Tensor dq = arena.tensor(N, H * D, dtype), dk = arena.tensor(N, G * D, dtype),
               dv = arena.tensor(N, G * D, dtype);
  const double forward = best_seconds(9, [&] { attention_forward(out, lse, q, k, v, shape.attention, offsets, ctx); });
  const double backward =
      best_seconds(9, [&] { attention_backward(dq, dk, dv, dout, out, lse, q, k, v, shape.attention, offsets, ctx); });
  const double pairs = double(shape.sequences * H) * double(shape.tokens) * double(shape.tokens + 1) / 2;
  const double flops = pairs * 2 * 2 * double(D), bound = peak.gflops(dtype);
  print("forward " + shape.text(), dtype, forward, flops, "GFLOP/s", bound);
  print("backward " + shape.text(), dtype, backward, 2.5 * flops, "GFLOP/s", bound);
  print("both " + shape.text(), dtype, forward + backward, 3.5 * flops, "GFLOP/s", bound);
}

void bench_decode(const Shape& shape, DType dtype, const Peak& peak, Arena& arena, Context& ctx) {
  const ArenaScope scope(arena);
  const auto [H, G, D, window] = shape.attention;
  const int64_t S = shape.sequences, T = shape.tokens;
  const KvPages cache{normal_tensor(arena, S * T, G * D, dtype), normal_tensor(arena, S * T, G * D, dtype), T};
  std::vector<int32_t> pages(static_cast<size_t>(S)), offsets(static_cast<size_t>(S) + 1);
  const std::vector<int32_t> past(static_cast<size_t>(S), int32_t(T - 1));
  std::iota(pages.begin(), pages.end(), 0), std::iota(offsets.begin(), offsets.end(), 0);
  const Tensor q = normal_tensor(arena, S, H * D, dtype), out = arena.tensor(S, H * D, dtype);
  const double seconds = best_seconds(15, [&] {
    attention_cached(out, q, cache, {pages, 1}, shape.attention, offsets, past, ctx);
  });
  print("decode " + shape.text(), dtype, seconds, double(2 * cache.keys.bytes()), "GB/s", peak.read_gb_per_s);
}

void run() {
  Context ctx;
  Arena arena(int64_t{4} << 30);
  const Peak peak = measure_peak(ctx);
  fmt::print("{} threads: f32 {:.1f} GFLOP/s, bf16 {:.1f} GFLOP/s, reading {:.1f} GB/s\n", ctx.threads, peak.f32_gflops,
             peak.bf16_gflops, peak.read_gb_per_s);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    bench_matmul(dtype, peak, arena, ctx);
    bench_matvec(dtype, peak, arena, ctx);
    for (const Shape& shape : {Shape{8, 512, {16, 4, 64}},
                               {8, 512, {16, 16, 64}},
                               {2, 2048, {16, 4, 128}},
                               {32, 128, {4, 2, 32}},
                               {32, 128, {8, 4, 8}}})
      bench_attention(shape, dtype, peak, arena, ctx);
    for (const Shape& shape : {Shape{1, 512, {32, 8, 64}}, {1, 8192, {32, 8, 64}}, {16, 1024, {32, 8, 64}}})
      bench_decode(shape, dtype, peak, arena, ctx);
  }
}

}  // namespace
}  // namespace tangram

int main() { tangram::run(); }
