// The memory-bound operations against the rate of a large copy. Counted is what an operation must move: every operand
// once. The losses over the vocabulary are matrix products and stand beside those.

#include <fmt/core.h>

#include "kernels/adamw.h"
#include "kernels/clip.h"
#include "kernels/cosine.h"
#include "kernels/head_loss.h"
#include "kernels/mse.h"
#include "kernels/rmsnorm.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/benchmarks/harness.h"

namespace tangram {
namespace {

struct Shapes {
  int64_t tokens, hidden, ffn, head_dim;
  int64_t tensors, elements;                     // of the optimiser
  int64_t loss_tokens, loss_hidden, vocabulary;  // of the losses over the vocabulary
};

Shapes shapes_of(const BenchOptions& o) {
  if (o.tiny) return {64, 256, 192, 64, 3, 5000, 32, 64, 600};
  if (o.device == Device::cuda) return {16384, 8192, 14336, 128, 24, 1 << 24, 4096, 4096, 128256};
  return {2048, 2048, 8192, 64, 8, 1 << 20, 128, 2048, 128256};
}

class MemoryBench {
 public:
  MemoryBench(Bench& bench, DType dtype) : bench_(bench), dtype_(dtype), s_(shapes_of(bench.options)) {}

  void run() {
    bench_.ceilings(dtype_);
    rmsnorm();
    swiglu();
    rope();
    optimiser();
    losses();
    head_losses();
  }

 private:
  Context& ctx() { return *bench_.context; }
  Arena arena(int64_t elements) { return bench_.arena(elements * size_of(dtype_) + (8 << 20)); }
  Tensor random(Arena& arena, int64_t rows, int64_t cols) { return bench_.random(arena, rows, cols, dtype_); }

  // `moved` elements of the dtype and `more` bytes. The peer's work has the shape as its arguments.
  void time(const std::string& what, const std::string& peer, std::vector<int64_t> shape, int64_t moved, int64_t more,
            const std::function<void()>& call) {
    if (!bench_.wants(what)) return;
    const double seconds = bench_.seconds(call);
    bench_.add({what, fmt::format("{}", fmt::join(shape, " x ")), dtype_, seconds,
                double(moved * size_of(dtype_) + more), Unit::bytes,
                fmt::format("{}:{}", peer, fmt::join(shape, ","))});
  }

  void rmsnorm() {
    const auto [N, H] = std::pair(s_.tokens, s_.hidden);
    Arena memory = arena(4 * N * H + 3 * N + 4 * H);
    const Tensor x = random(memory, N, H), w = random(memory, 1, H), dy = random(memory, N, H);
    const Tensor y = memory.tensor(N, H, dtype_), dx = memory.tensor(N, H, dtype_);
    const Tensor rstd = memory.tensor(1, N, DType::f32), dw = memory.tensor(1, H, DType::f32);
    time("rmsnorm forward", "rmsnorm_forward", {N, H}, 2 * N * H, 4 * N,
         [&] { rmsnorm_forward(y, rstd, x, w, 1e-5f, ctx()); });
    time("rmsnorm backward", "rmsnorm_backward", {N, H}, 3 * N * H, 4 * N,
         [&] { rmsnorm_backward(dx, dw, dy, x, w, rstd, ctx(), false); });
  }

  void swiglu() {
    const auto [N, I] = std::pair(s_.tokens, s_.ffn);
    Arena memory = arena(6 * N * I);
    const Tensor proj = random(memory, N, 2 * I), dproj = memory.tensor(N, 2 * I, dtype_);
    const Tensor h = memory.tensor(N, I, dtype_), dh = random(memory, N, I);
    const Tensor gate = proj.col_range(0, I), up = proj.col_range(I, I);
    time("swiglu forward", "swiglu_forward", {N, I}, 3 * N * I, 0, [&] { swiglu_forward(h, gate, up, ctx()); });
    time("swiglu backward", "swiglu_backward", {N, I}, 5 * N * I, 0,
         [&] { swiglu_backward(dproj.col_range(0, I), dproj.col_range(I, I), dh, gate, up, ctx()); });
  }

  void rope() {
    const auto [N, H, D] = std::tuple(s_.tokens, s_.hidden, s_.head_dim);
    Arena memory = arena(N * H + 2 * N * D);
    const Tensor x = random(memory, N, H), table = bench_.random(memory, N, D, DType::f32);
    time("rope", "rope", {N, H, D}, 2 * N * H, 4 * N * D, [&] { rope_forward(x, table, ctx()); });
  }

  void optimiser() {
    const auto [count, size] = std::pair(s_.tensors, s_.elements);
    Arena memory = bench_.arena(count * (size * 18 + 1024) + (8 << 20));
    std::vector<AdamWTensor> tensors;
    std::vector<Tensor> grads;
    for (int64_t i = 0; i < count; ++i) {
      const auto f32 = [&](double deviation) { return bench_.random(memory, 1, size, DType::f32, deviation); };
      tensors.push_back({.master = f32(1), .moment1 = f32(1e-3), .moment2 = f32(0), .grad = f32(1e-2), .copy = {}});
      bench_.fill(tensors.back().moment2, 1e-5, 1e-4);  // none below 0
      if (dtype_ != DType::f32) tensors.back().copy = memory.tensor(1, size, dtype_);
      grads.push_back(tensors.back().grad);
    }
    const int64_t elements = count * size;
    const AdamWStep step{.learning_rate = 1e-4, .step = 10, .grad_scale = 0.5};
    time("adamw", "adamw", {count, size}, dtype_ == DType::f32 ? 0 : elements, 28 * elements,
         [&] { adamw(tensors, step, ctx()); });
    time("gradient norm", "gradient_norm", {count, size}, 0, 4 * elements, [&] { gradient_norm(grads, ctx()); });
  }

  void losses() {
    const auto [N, H] = std::pair(s_.tokens, s_.hidden);
    Arena memory = arena(3 * N * H + 3 * N);
    const Tensor y = random(memory, N, H), target = random(memory, N, H), dy = memory.tensor(N, H, dtype_);
    const Tensor sum = memory.tensor(1, 1, DType::f32), loss = memory.tensor(1, 1, DType::f32);
    const Tensor each = memory.tensor(1, N, DType::f32);
    time("sum of squares", "sum_squares", {N, H}, N * H, 0, [&] { sum_squares(sum, target, ctx()); });
    sum_squares(sum, target, ctx());
    time("normalized mse and gradient", "mse", {N, H}, 3 * N * H, 0,
         [&] { normalized_mse(loss, dy, y, target, sum, 1, ctx()); });
    time("cosine", "cosine", {N, H}, 2 * N * H, 4 * N, [&] { cosine_forward(each, y, target, ctx()); });
  }

  void head_losses() {
    const auto [N, H, V] = std::tuple(s_.loss_tokens, s_.loss_hidden, s_.vocabulary);
    const std::string forward = "head losses forward", both = "head kl forward and backward";
    if (!bench_.wants(forward) && !bench_.wants(both)) return;
    Arena memory = arena(2 * V * H + 3 * N * H + 16 * N);
    const auto head = [&] {
      const Tensor hidden = random(memory, N, H);
      return Head{hidden, bench_.random(memory, V, H, dtype_, 0.02)};
    };
    std::vector<int32_t> next;
    for (int64_t n = 0; n < N; ++n) next.push_back(int32_t(n * 7919 % V));
    const HeadInputs in{.student = head(), .teacher = head(), .targets = send(next, memory, ctx())};
    const Tensor kl = memory.tensor(1, N, DType::f32), dhidden = memory.tensor(N, H, dtype_);
    const HeadLosses all{memory.tensor(1, N, DType::f32), kl, {}, memory.tensor(1, N, DType::i32)};
    const double product = 2.0 * double(N) * double(H) * double(V);
    const std::string shape = fmt::format("{} x {} x {}", N, H, V), arguments = fmt::format("{},{},{}", N, H, V);
    if (bench_.wants(forward))
      bench_.add({forward, shape, dtype_, bench_.seconds([&] { head_loss_forward(all, in, ctx()); }), 2 * product,
                  Unit::flops, "head_forward:" + arguments});
    const HeadLosses only_kl{{}, kl, {}, {}};
    const auto call = [&] {
      head_loss_forward_backward(only_kl, dhidden, {}, in, {.kl_scale = 1.0f / float(N)}, ctx());
    };
    if (bench_.wants(both))
      bench_.add({both, shape, dtype_, bench_.seconds(call), 3 * product, Unit::flops, "head_backward:" + arguments});
  }

  Bench& bench_;
  const DType dtype_;
  const Shapes s_;
};

}  // namespace
}  // namespace tangram

int main(int argc, char** argv) {
  using tangram::DType;
  tangram::Bench bench(argc, argv, "Memory-bound operations and losses", {DType::bf16});
  for (const DType dtype : bench.options.dtypes) tangram::MemoryBench(bench, dtype).run();
  return bench.finish();
}
