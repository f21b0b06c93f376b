// The compute-bound operations, and attention over a cache, against the device's own ceilings: the rate of a large
// matrix product and that of memory. Attention counts causal operations only: 2 products of D channels for each pair of
// a query and a key that it sees, and 5 in the backward pass, as if p were not computed again.

#include <fmt/core.h>

#include <array>
#include <numeric>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/random.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace {

void bench_matmul(Bench& bench, int64_t tokens, int64_t in, int64_t out, DType dtype) {
  const auto time = [&](const char* form, int64_t M, int64_t N, int64_t K, Transpose ta, Transpose tb, DType dtype_c) {
    const std::string what = fmt::format("matmul {}", form);
    if (!bench.wants(what)) return;
    Arena arena = bench.arena((M * K + N * K) * size_of(dtype) + M * N * size_of(dtype_c) + 4096);
    const bool a_t = ta == Transpose::yes, b_t = tb == Transpose::yes;
    const Tensor a = bench.random(arena, a_t ? K : M, a_t ? M : K, dtype);
    const Tensor b = bench.random(arena, b_t ? N : K, b_t ? K : N, dtype), c = bench.random(arena, M, N, dtype_c);
    const double seconds = bench.seconds([&] { matmul(c, a, ta, b, tb, a_t, *bench.context); });
    bench.add({what, fmt::format("{} x {} x {}", M, N, K), dtype, seconds, 2.0 * double(M * N * K), Unit::flops});
  };
  time("y = x w^T", tokens, out, in, Transpose::no, Transpose::yes, dtype);
  time("dx = dy w", tokens, in, out, Transpose::no, Transpose::no, dtype);
  time("dw += dy^T x", out, in, tokens, Transpose::yes, Transpose::no, DType::f32);
}

void bench_matvec(Bench& bench, int64_t out, int64_t in, DType dtype) {
  if (!bench.wants("matvec")) return;
  // Weights in turns, so that none is still in a GPU's cache.
  const auto copies = int(bench.options.tiny ? 1 : ceil_div(int64_t{256} << 20, out * in * size_of(dtype)));
  Arena arena = bench.arena(copies * out * in * size_of(dtype) + (in + out) * 16 * 4 + (1 << 20));
  std::vector<Tensor> w;
  for (int i = 0; i < copies; ++i) w.push_back(bench.random(arena, out, in, dtype));
  for (const int64_t tokens : {1, 2, 4}) {
    const Tensor x = bench.random(arena, tokens, in, dtype), y = arena.tensor(tokens, out, dtype);
    const double seconds =
        bench.graph_seconds(copies, [&](int i) { matmul_forward(y, x, w[size_t(i)], *bench.context); });
    bench.add({"matvec", fmt::format("{} tokens, w ({}, {})", tokens, out, in), dtype, seconds, double(w[0].bytes()),
               Unit::bytes});
  }
}

struct Shape {
  int64_t sequences, tokens, heads, kv_heads, head_dim;
  std::string text() const {
    return fmt::format("{} x {} tokens, {}/{} heads of {}", sequences, tokens, heads, kv_heads, head_dim);
  }
  std::string work(const char* peer) const {
    return fmt::format("{}:{},{},{},{},{}", peer, sequences, tokens, heads, kv_heads, head_dim);
  }
};

void bench_attention(Bench& bench, const Shape& s, DType dtype) {
  if (!bench.wants("attention forward") && !bench.wants("attention backward")) return;
  const int64_t N = s.sequences * s.tokens, H = s.heads * s.head_dim, G = s.kv_heads * s.head_dim;
  Arena arena = bench.arena(N * (4 * H + 4 * G) * size_of(dtype) + N * s.heads * 4 + (1 << 20));
  Context& ctx = *bench.context;
  const AttentionShape shape{s.heads, s.kv_heads, s.head_dim};
  std::vector<int32_t> host_offsets;
  for (int64_t i = 0; i <= s.sequences; ++i) host_offsets.push_back(int32_t(i * s.tokens));
  const Indices offsets = send(host_offsets, arena, ctx);
  const Tensor q = bench.random(arena, N, H, dtype), k = bench.random(arena, N, G, dtype);
  const Tensor v = bench.random(arena, N, G, dtype), dout = bench.random(arena, N, H, dtype);
  const Tensor out = arena.tensor(N, H, dtype), lse = arena.tensor(N, s.heads, DType::f32);
  const Tensor dq = arena.tensor(N, H, dtype), dk = arena.tensor(N, G, dtype), dv = arena.tensor(N, G, dtype);
  const double forward = bench.seconds([&] { attention_forward(out, lse, q, k, v, shape, offsets, ctx); });
  const double pairs = double(s.sequences * s.heads) * double(s.tokens) * double(s.tokens + 1) / 2;
  const double flops = pairs * 2 * 2 * double(s.head_dim);
  bench.add({"attention forward", s.text(), dtype, forward, flops, Unit::flops, s.work("attention_forward")});
  const double backward =
      bench.seconds([&] { attention_backward(dq, dk, dv, dout, out, lse, q, k, v, shape, offsets, ctx); });
  bench.add({"attention backward, deterministic", s.text(), dtype, backward, 2.5 * flops, Unit::flops,
             s.work("attention_backward")});
}

// The pages of every sequence, in no order.
std::vector<int32_t> shuffled_pages(int64_t count) {
  std::vector<int32_t> pages(static_cast<size_t>(count));
  std::iota(pages.begin(), pages.end(), 0);
  for (size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[size_t(random_below(i, 1, 7, i))]);
  return pages;
}

void bench_decode(Bench& bench, const Shape& s, DType dtype) {
  if (!bench.wants("decode attention")) return;
  Context& ctx = *bench.context;
  const int64_t S = s.sequences, T = s.tokens, G = s.kv_heads * s.head_dim;
  const int64_t page_tokens = bench.options.device == Device::cuda ? std::min<int64_t>(128, T) : T;
  const int64_t rows = round_up(T, page_tokens) * S, bytes = 2 * S * T * G * size_of(dtype);
  // Caches in turns: together four times a GPU's L2 of 50 MiB at least.
  const auto copies = int(bench.options.tiny ? 2 : ceil_div(int64_t{200} << 20, bytes));
  Arena arena = bench.arena(copies * 2 * rows * G * size_of(dtype) + 2 * S * s.heads * s.head_dim * 4 + (4 << 20));
  std::vector<KvPages> caches;
  for (int i = 0; i < copies; ++i)
    caches.push_back({bench.random(arena, rows, G, dtype), bench.random(arena, rows, G, dtype), page_tokens});
  const std::vector<int32_t> pages = shuffled_pages(rows / page_tokens);
  const std::vector<int32_t> past(static_cast<size_t>(S), int32_t(T - 1));
  std::vector<int32_t> offsets(static_cast<size_t>(S) + 1);
  std::iota(offsets.begin(), offsets.end(), 0);
  const PageTable table{send(pages, arena, ctx), rows / page_tokens / S};
  const Indices at = send(offsets, arena, ctx), before = send(past, arena, ctx);
  const Tensor q = bench.random(arena, S, s.heads * s.head_dim, dtype), out = arena.tensor(S, q.cols, dtype);
  const double seconds = bench.graph_seconds(copies, [&](int i) {
    attention_cached(out, q, caches[size_t(i)], table, {s.heads, s.kv_heads, s.head_dim}, at, before, ctx);
  });
  bench.add({"decode attention", s.text(), dtype, seconds, double(bytes), Unit::bytes, s.work("decode")});
}

struct Shapes {
  std::vector<std::array<int64_t, 3>> products;  // tokens, in, out
  std::vector<std::array<int64_t, 2>> vectors;   // out, in
  std::vector<Shape> attention, decode;
};

Shapes shapes_of(const BenchOptions& o) {
  if (o.tiny)
    return {{{64, 128, 256}}, {{256, 128}}, {{2, 128, 4, 2, 128}}, {{2, 300, 4, 2, 128}, {1, 1000, 8, 1, 128}}};
  if (o.device == Device::cuda)
    return {{{16384, 8192, 8192}, {16384, 8192, 57344}, {16384, 2816, 8192}, {8192, 4096, 14336}},
            {{28672, 4096}, {128256, 4096}},
            {{2, 8192, 64, 8, 128}, {2, 8192, 64, 1, 128}, {1, 8192, 32, 8, 128}},
            {{64, 4096, 64, 8, 128}, {64, 4096, 64, 1, 128}, {1, 32768, 64, 8, 128}}};
  return {{{4096, 1024, 1024}, {4096, 1024, 4096}, {4096, 128, 344}},
          {{16384, 4096}, {128256, 1024}},
          {{8, 512, 16, 4, 64}, {8, 512, 16, 16, 64}, {2, 2048, 16, 4, 128}, {32, 128, 4, 2, 32}, {32, 128, 8, 4, 8}},
          {{1, 512, 32, 8, 64}, {1, 8192, 32, 8, 64}, {16, 1024, 32, 8, 64}}};
}

void run(Bench& bench, DType dtype) {
  bench.ceilings(dtype);
  const Shapes shapes = shapes_of(bench.options);
  for (const auto& [tokens, in, out] : shapes.products) bench_matmul(bench, tokens, in, out, dtype);
  for (const auto& [out, in] : shapes.vectors) bench_matvec(bench, out, in, dtype);
  for (const Shape& s : shapes.attention) bench_attention(bench, s, dtype);
  for (const Shape& s : shapes.decode) bench_decode(bench, s, dtype);
}

}  // namespace

void bench_kernels(Bench& bench) {
  for (const DType dtype : bench.options.dtypes) run(bench, dtype);
}

}  // namespace tangram
