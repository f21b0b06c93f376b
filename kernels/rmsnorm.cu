#include "kernels/rmsnorm.h"

#include "kernels/add_rows.cuh"
#include "kernels/held_row.cuh"

namespace tangram::cuda {
namespace {

constexpr int kForwardBlocks = 4, kBackwardBlocks = 3;  // at least, on a multiprocessor: bounds the registers
constexpr int64_t kMaxShared = int64_t{227} << 10;      // bytes that a block can have

template <class E, int N>
struct ForwardArgs {
  Matrix<E> y, sum;
  float* rstd;
  Matrix<E> x, residual;
  const E* w;
  int packs;  // of a row
  float eps;
};

// A block owns a row. With kAdd it normalises x + residual and leaves that in `sum`.
template <class E, int N, bool kAdd>
__global__ void __launch_bounds__(kRowThreads, kForwardBlocks) forward_kernel(ForwardArgs<E, N> a) {
  using P = Pack<E, N>;
  __shared__ float shared[kRowThreads / kWarp];
  const int64_t n = blockIdx.x;
  const P *x = a.x.template packs<N>(n), *residual = a.residual.template packs<N>(n);
  const auto* w = reinterpret_cast<const P*>(a.w);
  P *sum = a.sum.template packs<N>(n), *y = a.y.template packs<N>(n);
  const auto load = [&](int i) {
    P p = x[i];
    if constexpr (kAdd) {
      const P r = residual[i];
      for (int j = 0; j < N; ++j) p.v[j] = from_float<E>(to_float(p.v[j]) + to_float(r.v[j]));
    }
    return p;
  };
  HeldRow<P> row;
  float sum_squares = 0;
  row.first_pass(a.packs, load, [&](int i, const P& p) {
    for (int j = 0; j < N; ++j) sum_squares += to_float(p.v[j]) * to_float(p.v[j]);
    if constexpr (kAdd) sum[i] = p;
  });
  const float r = 1 / sqrtf(block_sum(sum_squares, shared) / float(a.packs * N) + a.eps);
  if (threadIdx.x == 0) a.rstd[n] = r;
  const auto load_again = [&](int i) { return kAdd ? sum[i] : x[i]; };
  row.second_pass(a.packs, load_again, [&](int i, P p) {
    const P pw = w[i];
    for (int j = 0; j < N; ++j) p.v[j] = from_float<E>(to_float(p.v[j]) * r * to_float(pw.v[j]));
    y[i] = p;
  });
}

template <class E, int N>
struct BackwardArgs {
  Matrix<E> dx;           // without data: not wanted
  Matrix<float> partial;  // likewise: a row of dw for each block
  Matrix<E> dy, x;
  const E* w;
  const float* rstd;
  int64_t rows;
  int packs;
  bool accumulate;
};

// A block takes every gridDim.x-th row. Its sum over them of dw is in shared memory, value j of pack i at j * packs +
// i, so that neighbouring threads meet neighbouring banks; a thread sees its own packs only.
template <class E, int N>
__global__ void __launch_bounds__(kRowThreads, kBackwardBlocks) backward_kernel(BackwardArgs<E, N> a) {
  using P = Pack<E, N>;
  struct Packs {
    P x, dy;
  };
  __shared__ float shared[kRowThreads / kWarp];
  float* dw = dynamic_shared<float>();
  const auto* w = reinterpret_cast<const P*>(a.w);
  if (a.partial.data)
    for (int i = threadIdx.x; i < a.packs; i += kRowThreads)
      for (int j = 0; j < N; ++j) dw[j * a.packs + i] = 0;

  for (int64_t n = blockIdx.x; n < a.rows; n += gridDim.x) {
    const P *x = a.x.template packs<N>(n), *dy = a.dy.template packs<N>(n);
    P* dx = a.dx.template packs<N>(n);
    const auto load = [&](int i) { return Packs{x[i], dy[i]}; };
    const float r = a.rstd[n];
    HeldRow<Packs> row;
    float dot = 0;
    row.first_pass(a.packs, load, [&](int i, const Packs& p) {
      const P pw = w[i];
      for (int j = 0; j < N; ++j) {
        const float product = to_float(p.dy.v[j]) * to_float(p.x.v[j]);
        dot += product * to_float(pw.v[j]);
        if (a.partial.data) dw[j * a.packs + i] += product * r;
      }
    });
    if (!a.dx.data) continue;
    const float k = r * r * block_sum(dot, shared) / float(a.packs * N);
    row.second_pass(a.packs, load, [&](int i, const Packs& p) {
      const P pw = w[i];
      P out = a.accumulate ? dx[i] : P{};
      for (int j = 0; j < N; ++j) {
        const float g = r * (to_float(p.dy.v[j]) * to_float(pw.v[j]) - to_float(p.x.v[j]) * k);
        out.v[j] = from_float<E>(a.accumulate ? to_float(out.v[j]) + g : g);
      }
      dx[i] = out;
    });
    __syncthreads();  // before `shared` is used again
  }

  if (a.partial.data)
    for (int i = threadIdx.x; i < a.packs; i += kRowThreads) {
      Pack<float, N> out;
      for (int j = 0; j < N; ++j) out.v[j] = dw[j * a.packs + i];
      a.partial.template packs<N>(blockIdx.x)[i] = out;
    }
}

}  // namespace

void rmsnorm_forward(Tensor y, Tensor sum, Tensor rstd, Tensor x, Tensor residual, Tensor w, float eps, Context& ctx) {
  if (x.rows == 0) return;
  dispatch(x.dtype, [&]<class T>() {
    const bool adds = sum.data;
    dispatch_pack<T>({y, x, w, adds ? sum : x, adds ? residual : x}, [&]<int N>() {
      const ForwardArgs<Element<T>, N> args{matrix<T>(y),        matrix<T>(sum), data<float>(rstd), matrix<T>(x),
                                            matrix<T>(residual), data<T>(w),     int(x.cols / N),   eps};
      launch(adds ? forward_kernel<Element<T>, N, true> : forward_kernel<Element<T>, N, false>, unsigned(x.rows),
             kRowThreads, ctx, args);
    });
  });
}

void rmsnorm_backward(Tensor dx, Tensor dw, Tensor partial, Tensor dy, Tensor x, Tensor w, Tensor rstd, Context& ctx,
                      bool accumulate) {
  if (x.rows == 0) return;
  const int64_t shared_bytes = dw.data ? x.cols * size_of(DType::f32) : 0;
  CHECK(shared_bytes <= kMaxShared, "dw of {} columns; a GPU takes at most {}", x.cols, kMaxShared / 4);
  dispatch(x.dtype, [&]<class T>() {
    dispatch_pack<T>({dx.data ? dx : dy, dy, x, w}, [&]<int N>() {
      const BackwardArgs<Element<T>, N> args{matrix<T>(dx), dw.data ? matrix<float>(partial) : Matrix<float>{},
                                             matrix<T>(dy), matrix<T>(x),
                                             data<T>(w),    data<float>(rstd),
                                             x.rows,        int(x.cols / N),
                                             accumulate};
      launch_shared(backward_kernel<Element<T>, N>, unsigned(dw.data ? partial.rows : x.rows), kRowThreads,
                    shared_bytes, ctx, args);
    });
  });
  if (dw.data) add_rows(dw, partial, ctx);
}

}  // namespace tangram::cuda
