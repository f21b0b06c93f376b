#include "kernels/swiglu.h"

#include "kernels/cover.cuh"

namespace tangram::cuda {
namespace {

// 0 below -87, where e^-x leaves what __fdividef takes.
__device__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

template <class E, int N>
__global__ void forward_kernel(Matrix<E> h, Matrix<E> gate, Matrix<E> up, int64_t rows, int64_t cols) {
  for_each_pack<N>(rows, cols, [&](int64_t r, int64_t c) {
    Pack<E, N> g = gate.template at<N>(r, c);
    const Pack<E, N> u = up.template at<N>(r, c);
    for (int i = 0; i < N; ++i) {
      const float z = to_float(g.v[i]);
      g.v[i] = from_float<E>(z * sigmoid(z) * to_float(u.v[i]));
    }
    h.template at<N>(r, c) = g;
  });
}

template <class E, int N>
__global__ void backward_kernel(Matrix<E> dgate, Matrix<E> dup, Matrix<E> dh, Matrix<E> gate, Matrix<E> up,
                                int64_t rows, int64_t cols) {
  for_each_pack<N>(rows, cols, [&](int64_t r, int64_t c) {
    Pack<E, N> g = gate.template at<N>(r, c), u = up.template at<N>(r, c);
    const Pack<E, N> dy = dh.template at<N>(r, c);
    for (int i = 0; i < N; ++i) {
      const float gi = to_float(g.v[i]), ui = to_float(u.v[i]), dyi = to_float(dy.v[i]), s = sigmoid(gi);
      g.v[i] = from_float<E>(dyi * ui * s * (1 + gi * (1 - s)));
      u.v[i] = from_float<E>(dyi * gi * s);
    }
    dgate.template at<N>(r, c) = g;
    dup.template at<N>(r, c) = u;
  });
}

}  // namespace

void swiglu_forward(Tensor h, Tensor gate, Tensor up, Context& ctx) {
  if (h.size() == 0) return;
  dispatch(h.dtype, [&]<class T>() {
    dispatch_pack<T>({h, gate, up}, [&]<int N>() {
      const Cover c = cover<N>(h.rows, h.cols);
      launch(forward_kernel<Element<T>, N>, c.grid, c.block, ctx, matrix<T>(h), matrix<T>(gate), matrix<T>(up), h.rows,
             h.cols);
    });
  });
}

void swiglu_backward(Tensor dgate, Tensor dup, Tensor dh, Tensor gate, Tensor up, Context& ctx) {
  if (dh.size() == 0) return;
  dispatch(dh.dtype, [&]<class T>() {
    dispatch_pack<T>({dgate, dup, dh, gate, up}, [&]<int N>() {
      const Cover c = cover<N>(dh.rows, dh.cols);
      launch(backward_kernel<Element<T>, N>, c.grid, c.block, ctx, matrix<T>(dgate), matrix<T>(dup), matrix<T>(dh),
             matrix<T>(gate), matrix<T>(up), dh.rows, dh.cols);
    });
  });
}

}  // namespace tangram::cuda
