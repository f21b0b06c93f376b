#include "kernels/matmul.h"

#include <omp.h>

#include <algorithm>

#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "kernels/matmul_cache.h"
#include "kernels/matmul_cuda.h"
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
  const MatmulShape& s = key.shape;
  MatmulPlan plan;
  plan.a = describe(s.M, s.K, s.stride_a, s.transpose_a, s.dtype_ab);
  plan.b = describe(s.K, s.N, s.stride_b, s.transpose_b, s.dtype_ab);
  plan.c = describe(s.M, s.N, s.stride_c, false, s.dtype_c);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (s.accumulate) {
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

std::string describe(const MatmulShape& s) {
  const auto operand = [](bool transposed, int64_t rows, int64_t cols) {
    return fmt::format("{} ({}, {})", transposed ? "^T" : "", transposed ? cols : rows, transposed ? rows : cols);
  };
  return fmt::format("c ({}, {}) {} {} a{} b{} {}, strides {} {} {}, aligned to {}", s.M, s.N, name_of(s.dtype_c),
                     s.accumulate ? "+=" : "=", operand(s.transpose_a, s.M, s.K), operand(s.transpose_b, s.K, s.N),
                     name_of(s.dtype_ab), s.stride_c, s.stride_a, s.stride_b, s.alignment);
}

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
  MatmulShape shape;
};

// The largest power of two that divides the address of every row.
int64_t row_alignment(const Tensor& x) {
  const auto step = static_cast<uintptr_t>(x.rows > 1 ? x.stride * size_of(x.dtype) : 0);
  const uintptr_t bits = reinterpret_cast<uintptr_t>(x.data) | step | uintptr_t{MatmulShape::kMaxAlignment};
  return static_cast<int64_t>(bits & (~bits + 1));
}

Product checked(Tensor c, Tensor a, Transpose transpose_a, Tensor b, Transpose transpose_b, bool accumulate) {
  const bool ta = transpose_a == Transpose::yes, tb = transpose_b == Transpose::yes;
  const int64_t M = ta ? a.cols : a.rows, K = ta ? a.rows : a.cols;
  const int64_t N = tb ? b.rows : b.cols, K_b = tb ? b.cols : b.rows;
  CHECK(K == K_b && c.rows == M && c.cols == N, "c ({}, {}) = a' ({}, {}) b' ({}, {})", c.rows, c.cols, M, K, K_b, N);
  CHECK(a.dtype == b.dtype && (a.dtype == DType::f32 || a.dtype == DType::bf16), "a is {}, b is {}; both f32 or bf16",
        name_of(a.dtype), name_of(b.dtype));
  CHECK(c.dtype == a.dtype || c.dtype == DType::f32, "c is {}; must be {} or f32", name_of(c.dtype), name_of(a.dtype));
  const int64_t alignment = std::min({row_alignment(a), row_alignment(b), row_alignment(c)});
  return {c, a, b, {M, N, K, a.stride, b.stride, c.stride, ta, tb, accumulate, a.dtype, c.dtype, alignment}};
}

/// Runs the product, or returns false if this machine has no instructions for it.
bool run_onednn(const Product& p, Context& ctx) {
  // oneDNN wants a stride of a single row to be at least the columns, as any view here has it.
  MatmulKey key{p.shape, ctx.threads};
  key.shape.alignment = 0;  // makes no difference to it
  const MatmulPlan* plan = ctx.matmuls->find(key);
  if (!plan) return false;
  const ArenaScope scope(ctx.scratch);
  const ThreadScope threads(ctx.threads);
  const Tensor scratch = ctx.scratch.tensor(1, plan->scratch_bytes, DType::u8);
  ctx.matmuls->run(*plan, p.c.data, p.a.data, p.b.data, scratch.data);
  return true;
}

void run_cublaslt(const Product& p, Context& ctx) {
  on_cuda(ctx, {p.c, p.a, p.b});
  const ArenaScope scope(ctx.scratch);
  const Tensor workspace = ctx.scratch.tensor(1, cuda::kMatmulWorkspaceBytes, DType::u8);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt) cuda::matmul(p.c, p.a, p.b, p.shape, workspace, ctx);
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
  MatmulShape& s = p.shape;
  p.a = widened(p.a, true), p.b = widened(p.b, true), p.c = widened(c, s.accumulate);
  s.stride_a = p.a.stride, s.stride_b = p.b.stride, s.stride_c = p.c.stride, s.dtype_ab = s.dtype_c = DType::f32;
  CHECK(run_onednn(p, ctx), "no f32 product on this machine");
  if (c.dtype != DType::f32) copy(c, p.c);
}

}  // namespace

void matmul(Tensor c, Tensor a, Transpose transpose_a, Tensor b, Transpose transpose_b, bool accumulate, Context& ctx) {
  const Product p = checked(c, a, transpose_a, b, transpose_b, accumulate);
  const MatmulShape& s = p.shape;
  ++ctx.matmul_calls;
  ctx.matmul_flops += s.flops();
  if (s.M == 0 || s.N == 0) return;
  if (s.K == 0) {
    if (!accumulate) fill_zero(c, ctx);
    return;
  }
  if (s.transpose_b && !s.transpose_a && s.M <= matvec_rows(ctx.device)) return matvec(c, a, b, accumulate, ctx);
  if (ctx.device == Device::cuda) return run_cublaslt(p, ctx);
  if (ctx.planning()) return;
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
