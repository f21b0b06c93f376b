#include "kernels/attention.h"
#include "kernels/cover.cuh"
#include "kernels/early_launch.cuh"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 128;

/// Where a token of a batch goes.
struct Target {
  const int32_t *offsets, *past, *pages;
  int sequences, pages_per_sequence, page_tokens;

  /// Row of the cache for row n of the batch.
  __device__ int64_t row_of(int n) const {
    int s = 0,
        end = sequences;  // the last sequence that begins at or before n: with tokens, as empty ones come before it
    while (end - s > 1) {
      const int middle = (s + end) / 2;
      (offsets[middle] <= n ? s : end) = middle;
    }
    const int position = past[s] + n - offsets[s];
    const int64_t page = pages[int64_t{s} * pages_per_sequence + position / page_tokens];
    return page * page_tokens + position % page_tokens;
  }
};

template <class E, int N>
__global__ void write_kernel(Matrix<E> keys, Matrix<E> values, Matrix<E> k, Matrix<E> v, Target target, int channels) {
  const int n = int(blockIdx.x), c = (int(blockIdx.y) * kThreads + int(threadIdx.x)) * N;
  if (c >= channels) return;
  const int64_t row = target.row_of(n);
  keys.template at<N>(row, c) = k.template at<N>(n, c);
  values.template at<N>(row, c) = v.template at<N>(n, c);
}

/// Turns N pairs of channels (i, i + half) of a head, from pair p of the row on.
template <int N, class E>
__device__ void rotate(Matrix<E> to, int64_t to_row, Matrix<E> from, int64_t n, int p, Matrix<float> rope, int half) {
  const int i = p % half, c = p / half * 2 * half + i;
  Pack<E, N> a = from.template at<N>(n, c), b = from.template at<N>(n, c + half);
  const Pack<float, N> cosine = rope.at<N>(n, i), sine = rope.at<N>(n, half + i);
  for (int j = 0; j < N; ++j) {
    const float x = to_float(a.v[j]), y = to_float(b.v[j]);
    a.v[j] = from_float<E>(x * cosine.v[j] - y * sine.v[j]);
    b.v[j] = from_float<E>(y * cosine.v[j] + x * sine.v[j]);
  }
  to.template at<N>(to_row, c) = a;
  to.template at<N>(to_row, c + half) = b;
}

/// Pairs of q, then pairs of k, then channels of v; a thread has N of one of them.
template <class E, int N>
__global__ void rotate_and_write_kernel(Matrix<E> keys, Matrix<E> values, Matrix<E> q, Matrix<E> k, Matrix<E> v,
                                        Matrix<float> rope, Target target, int q_pairs, int channels, int half) {
  let_next_start();
  wait_for_previous();
  const int n = int(blockIdx.x);
  int c = (int(blockIdx.y) * kThreads + int(threadIdx.x)) * N;
  if (c < q_pairs) return rotate<N>(q, n, q, n, c, rope, half);
  c -= q_pairs;
  if (c >= channels / 2 + channels) return;
  const int64_t row = target.row_of(n);
  if (c < channels / 2)
    rotate<N>(keys, row, k, n, c, rope, half);
  else
    values.template at<N>(row, c - channels / 2) = v.template at<N>(n, c - channels / 2);
}

Target target_of(const KvPages& cache, const PageTable& table, const DeviceIndices& batch) {
  return {batch.offsets,         batch.past, batch.pages, int(batch.sequences), int(table.pages_per_sequence),
          int(cache.page_tokens)};
}

}  // namespace

void kv_write(const KvPages& cache, Tensor k, Tensor v, const PageTable& table, const DeviceIndices& batch,
              Context& ctx) {
  if (k.size() == 0) return;
  dispatch(k.dtype, [&]<class T>() {
    dispatch_pack<T>({cache.keys, cache.values, k, v}, [&]<int N>() {
      const dim3 grid(unsigned(k.rows), unsigned(ceil_div(k.cols, kThreads * N)));
      launch(write_kernel<Element<T>, N>, grid, kThreads, ctx, matrix<T>(cache.keys), matrix<T>(cache.values),
             matrix<T>(k), matrix<T>(v), target_of(cache, table, batch), int(k.cols));
    });
  });
}

void rope_kv_write(const KvPages& cache, Tensor q, Tensor k, Tensor v, Tensor rope, const PageTable& table,
                   const DeviceIndices& batch, Context& ctx) {
  if (q.rows == 0) return;
  const int64_t half = rope.cols / 2, work = q.cols / 2 + k.cols / 2 + v.cols;
  dispatch(k.dtype, [&]<class T>() {
    // Packs must not cross from one half of a head to the other.
    const auto halves = {q.col_range(0, half), rope.col_range(0, half), q, k, v, rope, cache.keys, cache.values};
    dispatch_pack<T>(halves, [&]<int N>() {
      const dim3 grid(unsigned(q.rows), unsigned(ceil_div(work, kThreads * N)));
      launch_early(rotate_and_write_kernel<Element<T>, N>, grid, kThreads, 0, ctx, matrix<T>(cache.keys),
                   matrix<T>(cache.values), matrix<T>(q), matrix<T>(k), matrix<T>(v), matrix<float>(rope),
                   target_of(cache, table, batch), int(q.cols / 2), int(k.cols), int(half));
    });
  });
}

}  // namespace tangram::cuda
