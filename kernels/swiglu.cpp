#include "kernels/swiglu.h"

#include "kernels/check.h"
#include "kernels/fast_math.h"

namespace tangram {

void swiglu_forward(Tensor h, Tensor gate, Tensor up, Context& ctx) {
  check_tensor("h", h, gate.rows, gate.cols, gate.dtype);
  check_tensor("up", up, gate.rows, gate.cols, gate.dtype);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {h, gate, up})) return cuda::swiglu_forward(h, gate, up, ctx);
  dispatch(gate.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (gate.rows > 1)
    for (int64_t n = 0; n < gate.rows; ++n) {
      const T *g = gate.row<T>(n), *u = up.row<T>(n);
      T* y = h.row<T>(n);
#pragma GCC ivdep
      for (int64_t i = 0; i < gate.cols; ++i) y[i] = T(float(g[i]) * fast_sigmoid(g[i]) * float(u[i]));
    }
  });
}

void swiglu_backward(Tensor dgate, Tensor dup, Tensor dh, Tensor gate, Tensor up, Context& ctx) {
  for (const auto& [name, x] : {std::pair{"dgate", dgate}, {"dup", dup}, {"dh", dh}, {"up", up}})
    check_tensor(name, x, gate.rows, gate.cols, gate.dtype);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {dgate, dup, dh, gate, up})) return cuda::swiglu_backward(dgate, dup, dh, gate, up, ctx);
  dispatch(gate.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (gate.rows > 1)
    for (int64_t n = 0; n < gate.rows; ++n) {
      const T *dy = dh.row<T>(n), *g = gate.row<T>(n), *u = up.row<T>(n);
      T *dg = dgate.row<T>(n), *du = dup.row<T>(n);
#pragma GCC ivdep
      for (int64_t i = 0; i < gate.cols; ++i) {
        const float gi = g[i], ui = u[i], dyi = dy[i], s = fast_sigmoid(gi);
        dg[i] = T(dyi * ui * s * (1 + gi * (1 - s)));
        du[i] = T(dyi * gi * s);
      }
    }
  });
}

}  // namespace tangram
