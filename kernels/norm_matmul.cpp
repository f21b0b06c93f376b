#include "kernels/norm_matmul.h"

#include <array>

#include "kernels/check.h"
#include "kernels/matmul.h"
#include "kernels/matvec.h"
#include "kernels/rmsnorm.h"
#include "kernels/swiglu.h"

namespace tangram {
namespace {

bool is_one_kernel(const Normed& x, const Context& ctx) {
  return ctx.device == Device::cuda && x.x.rows <= kCudaMatvecRows;
}

void check_operands(Tensor y, const Normed& x, Tensor w) {
  check_tensor("norm", x.norm, 1, x.x.cols, x.x.dtype);
  check_tensor("w", w, w.rows, x.x.cols, x.x.dtype);
  check_tensor("y", y, x.x.rows, w.rows, x.x.dtype);
}

// y = rmsnorm(x) w^T, or with `up` the gated activation of two such products.
void run_one_kernel(Tensor y, const Normed& x, Tensor w, Tensor up, Context& ctx) {
  check_operands(y, x, w);
  for (const Tensor& t : {w, up}) {
    if (!t.data) continue;
    ++ctx.matmul_calls;
    ctx.matmul_flops += 2.0 * double(x.x.rows) * double(t.size());
  }
  if (ctx.planning() || y.size() == 0) return;
  if constexpr (kCudaBuilt) {
    on_cuda(ctx, {y, x.x, x.norm, w, up});
    cuda::matvec(y, x.x, w, {.norm = x.norm, .eps = x.eps, .up = up}, ctx);
  }
}

}  // namespace

void norm_matmul(Tensor y, const Normed& x, std::span<const Weight> w, Context& ctx) {
  ArenaScope scope(ctx.scratch);
  Tensor normed;
  if (!is_one_kernel(x, ctx)) {
    normed = ctx.scratch.tensor(x.x.rows, x.x.cols, x.x.dtype);
    rmsnorm_forward(normed, ctx.scratch.tensor(1, x.x.rows, DType::f32), x.x, x.norm, x.eps, ctx);
  }
  int64_t column = 0;
  while (!w.empty()) {
    const Weight matrix = stack_adjacent(w);
    const Tensor part = y.col_range(column, matrix.values.rows);
    if (normed.data)
      matmul_forward(part, normed, matrix, ctx);
    else
      run_one_kernel(part, x, matrix.values, {}, ctx);
    column += part.cols;
  }
  CHECK(column == y.cols, "y has {} columns for {} rows of w", y.cols, column);
}

void norm_matmul_swiglu(Tensor h, const Normed& x, const Weight& gate, const Weight& up, Context& ctx) {
  const int64_t I = gate.values.rows;
  check_tensor("up", up.values, I, gate.values.cols, gate.values.dtype);
  if (is_one_kernel(x, ctx)) return run_one_kernel(h, x, gate.values, up.values, ctx);
  ArenaScope scope(ctx.scratch);
  const Tensor products = ctx.scratch.tensor(x.x.rows, 2 * I, x.x.dtype);
  norm_matmul(products, x, std::array{gate, up}, ctx);
  swiglu_forward(h, products.col_range(0, I), products.col_range(I, I), ctx);
}

}  // namespace tangram
