#include "kernels/cosine.h"

#include "kernels/held_row.cuh"

namespace tangram::cuda {
namespace {

template <class X, class Y, int N>
struct Args {
  float* loss;   // forward
  Matrix<X> dx;  // backward
  Matrix<X> x;
  Matrix<Y> y;
  int packs;  // of a row
  float scale;
};

// A block owns a row of x and y.
template <class X, class Y, int N, bool kBackward>
__global__ void __launch_bounds__(kRowThreads, 3) cosine_kernel(Args<X, Y, N> a) {
  struct Packs {
    Pack<X, N> x;
    Pack<Y, N> y;
  };
  __shared__ double shared[3][kRowThreads / kWarp];
  const int64_t n = blockIdx.x;
  const auto* x = a.x.template packs<N>(n);
  const auto* y = a.y.template packs<N>(n);
  const auto load = [&](int i) { return Packs{x[i], y[i]}; };
  HeldRow<Packs> row;
  double xx = 0, yy = 0, xy = 0;
  row.first_pass(a.packs, load, [&](int, const Packs& p) {
    for (int j = 0; j < N; ++j) {
      const double xj = to_float(p.x.v[j]), yj = to_float(p.y.v[j]);
      xx += xj * xj, yy += yj * yj, xy += xj * yj;
    }
  });
  xx = block_sum(xx, shared[0]), yy = block_sum(yy, shared[1]), xy = block_sum(xy, shared[2]);
  const bool has_direction = !(xx < kMinNorm * kMinNorm || yy < kMinNorm * kMinNorm);
  const double cosine = has_direction ? xy / sqrt(xx * yy) : 0;
  if constexpr (!kBackward) {
    if (threadIdx.x == 0) a.loss[n] = float(1 - cosine);
  } else {
    const auto to_x = float(has_direction ? a.scale * cosine / xx : 0);
    const auto to_y = float(has_direction ? a.scale / sqrt(xx * yy) : 0);
    auto* dx = a.dx.template packs<N>(n);
    row.second_pass(a.packs, load, [&](int i, const Packs& p) {
      Pack<X, N> out = dx[i];
      for (int j = 0; j < N; ++j) {
        const float slope = to_x * to_float(p.x.v[j]) - to_y * to_float(p.y.v[j]);
        out.v[j] = from_float<X>(to_float(out.v[j]) + slope);
      }
      dx[i] = out;
    });
  }
}

template <bool kBackward>
void run(Tensor loss, Tensor dx, Tensor x, Tensor y, float scale, Context& ctx) {
  if (x.rows == 0) return;
  dispatch(x.dtype, [&]<class X>() {
    dispatch(y.dtype, [&]<class Y>() {
      dispatch_pack<Narrower<X, Y>>({kBackward ? dx : x, x, y}, [&]<int N>() {
        using A = Args<Element<X>, Element<Y>, N>;
        const A args{data<float>(loss), matrix<X>(dx), matrix<X>(x), matrix<Y>(y), int(x.cols / N), scale};
        launch(cosine_kernel<Element<X>, Element<Y>, N, kBackward>, unsigned(x.rows), kRowThreads, ctx, args);
      });
    });
  });
}

}  // namespace

void cosine_forward(Tensor loss, Tensor x, Tensor y, Context& ctx) { run<false>(loss, {}, x, y, 0, ctx); }
void cosine_backward(Tensor dx, Tensor x, Tensor y, float scale, Context& ctx) { run<true>({}, dx, x, y, scale, ctx); }

}  // namespace tangram::cuda
