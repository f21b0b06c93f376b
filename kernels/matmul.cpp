#include "kernels/matmul.h"

#include <omp.h>

#include "kernels/matmul_cache.h"
#include "kernels/matvec.h"

namespace tangram {

ThreadScope::ThreadScope(int threads) : previous_(omp_get_max_threads()) {
  if (threads != previous_) omp_set_num_threads(threads);
}

ThreadScope::~ThreadScope() {
  if (omp_get_max_threads() != previous_) omp_set_num_threads(previous_);
}

namespace {

constexpr size_t kMaxPlans = 4096;  // a server sees a new shape with every prompt length

dnnl::memory::desc describe(int64_t rows, int64_t cols, int64_t stride, bool transposed, DType dtype) {
  const auto type = dtype == DType::f32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
  return {{rows, cols}, type, transposed ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1}};
}

MatmulPlan compile(const MatmulKey& key, const dnnl::engine& engine) {
  MatmulPlan plan;
  plan.a = describe(key.M, key.K, key.stride_a, key.transpose_a, key.dtype_ab);
  plan.b = describe(key.K, key.N, key.stride_b, key.transpose_b, key.dtype_ab);
  plan.c = describe(key.M, key.N, key.stride_c, false, key.dtype_c);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (key.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attr.set_post_ops(sum);
  }
  const ThreadScope scope(key.threads);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(plan.a, plan.b, plan.c), attr, engine, true);
  if (!description) return plan;
  plan.primitive = dnnl::matmul(description);
  plan.scratchpad = description.scratchpad_desc();
  plan.scratch_bytes = static_cast<int64_t>(plan.scratchpad.get_size());
  return plan;
}

}  // namespace

const MatmulPlan* MatmulCache::find(const MatmulKey& key) {
  auto it = plans_.find(key);
  if (it == plans_.end()) {
    if (plans_.size() >= kMaxPlans) plans_.clear();
    it = plans_.emplace(key, compile(key, engine_)).first;
  }
  return it->second.primitive ? &it->second : nullptr;
}

void MatmulCache::run(const MatmulPlan& plan, void* c, const void* a, const void* b, void* scratch) {
  plan.primitive.execute(stream_, {{DNNL_ARG_SRC, {plan.a, engine_, const_cast<void*>(a)}},
                                   {DNNL_ARG_WEIGHTS, {plan.b, engine_, const_cast<void*>(b)}},
                                   {DNNL_ARG_DST, {plan.c, engine_, c}},
                                   {DNNL_ARG_SCRATCHPAD, {plan.scratchpad, engine_, scratch}}});
}

namespace {

struct Product {
  Tensor c, a, b;
  bool transpose_a, transpose_b, accumulate;
  int64_t M, N, K;
};

Product checked(Tensor c, Tensor a, Transpose transpose_a, Tensor b, Transpose transpose_b, bool accumulate) {
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  const int64_t M = ta ? a.cols : a.rows, K = ta ? a.rows : a.cols;
  const int64_t N = tb ? b.rows : b.cols, K_b = tb ? b.cols : b.rows;
  CHECK(K == K_b && c.rows == M && c.cols == N, "c ({}, {}) = a' ({}, {}) b' ({}, {})", c.rows, c.cols, M, K, K_b, N);
  CHECK(a.dtype == b.dtype && (a.dtype == DType::f32 || a.dtype == DType::bf16), "a is {}, b is {}; both f32 or bf16",
        name_of(a.dtype), name_of(b.dtype));
  CHECK(c.dtype == a.dtype || c.dtype == DType::f32, "c is {}; must be {} or f32", name_of(c.dtype), name_of(a.dtype));
  return {c, a, b, ta, tb, accumulate, M, N, K};
}

/// Runs the product, or returns false if this machine has no instructions for it.
bool run_onednn(const Product& p, Context& ctx) {
  // oneDNN wants a stride of a single row to be at least the columns, as any view here has it.
  const MatmulKey key{p.M,           p.N,           p.K,          p.a.stride, p.b.stride, p.c.stride,
                      p.transpose_a, p.transpose_b, p.accumulate, p.a.dtype,  p.c.dtype,  ctx.threads};
  const MatmulPlan* plan = ctx.matmuls->find(key);
  if (!plan) return false;
  const ArenaScope scope(ctx.scratch);
  const ThreadScope threads(ctx.threads);
  const Tensor scratch = ctx.scratch.tensor(1, plan->scratch_bytes, DType::u8);
  ctx.matmuls->run(*plan, p.c.data, p.a.data, p.b.data, scratch.data);
  return true;
}

/// oneDNN multiplies bf16 only where the processor has AVX-512; elsewhere the product runs on f32 copies.
void run_in_f32(Product p, Context& ctx) {
  const ArenaScope scope(ctx.scratch);
  const auto widened = [&](Tensor x, bool fill) {
    if (x.dtype == DType::f32) return x;
    const Tensor y = ctx.scratch.tensor(x.rows, x.cols, DType::f32);
    if (fill) copy(y, x);
    return y;
  };
  const Tensor c = p.c;
  p.a = widened(p.a, true), p.b = widened(p.b, true), p.c = widened(c, p.accumulate);
  CHECK(run_onednn(p, ctx), "no f32 product on this machine");
  if (c.dtype != DType::f32) copy(c, p.c);
}

}  // namespace

void matmul(Tensor c, Tensor a, Transpose transpose_a, Tensor b, Transpose transpose_b, bool accumulate, Context& ctx) {
  const Product p = checked(c, a, transpose_a, b, transpose_b, accumulate);
  ++ctx.matmul_calls;
  ctx.matmul_flops += 2.0 * double(p.M) * double(p.N) * double(p.K);
  if (p.M == 0 || p.N == 0) return;
  if (p.K == 0) {
    if (!accumulate) fill_zero(c);
    return;
  }
  if (p.transpose_b && !p.transpose_a && p.M <= kMatvecRows) return matvec(c, a, b, accumulate, ctx);
  if (!run_onednn(p, ctx)) run_in_f32(p, ctx);
}

void matmul_forward(Tensor y, Tensor x, const Weight& w, Context& ctx, bool accumulate) {
  matmul(y, x, Transpose::no, w.values, Transpose::yes, accumulate, ctx);
}

void matmul_backward_input(Tensor dx, Tensor dy, const Weight& w, Context& ctx, bool accumulate) {
  matmul(dx, dy, Transpose::no, w.values, Transpose::no, accumulate, ctx);
}

void matmul_backward_weight(Tensor dw, Tensor dy, Tensor x, Context& ctx, bool accumulate) {
  if (!dw.data) return;
  matmul(dw, dy, Transpose::yes, x, Transpose::no, accumulate, ctx);
}

}  // namespace tangram
