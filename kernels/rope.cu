#include "kernels/rope.h"

#include "kernels/cover.cuh"
#include "kernels/early_launch.cuh"

namespace tangram::cuda {
namespace {

// A thread turns N neighbouring pairs (i, i + half) of one head; the heads of a token find its angles in the cache.
template <class E, int N>
__global__ void rotate_kernel(Matrix<E> x, Matrix<float> rope, float direction, int64_t rows, int64_t pairs,
                              unsigned half) {
  for_each_pack<N>(rows, pairs, [&](int64_t n, int64_t pair) {
    const unsigned head = unsigned(pair) / half, i = unsigned(pair) % half;
    Pack<E, N>& first = x.template at<N>(n, int64_t{head} * 2 * half + i);
    Pack<E, N>& second = x.template at<N>(n, int64_t{head} * 2 * half + half + i);
    Pack<E, N> a = first, b = second;
    const Pack<float, N> cosine = rope.at<N>(n, i), sine = rope.at<N>(n, half + i);
    for (int j = 0; j < N; ++j) {
      const float aj = to_float(a.v[j]), bj = to_float(b.v[j]), c = cosine.v[j], s = direction * sine.v[j];
      a.v[j] = from_float<E>(aj * c - bj * s);
      b.v[j] = from_float<E>(bj * c + aj * s);
    }
    first = a;
    second = b;
  });
}

// Passed by value: a model's frequencies never change, and so need no memory on the GPU.
struct Frequencies {
  static constexpr int kMost = 256;
  double f[kMost];
};

// A block for a token, a thread for a pair of channels.
__global__ void angles_kernel(Matrix<float> rope, const int32_t* positions, const Frequencies frequencies, int half) {
  wait_for_previous();
  let_next_start();
  const int i = int(threadIdx.x);
  if (i >= half) return;
  double sine, cosine;
  sincos(positions[blockIdx.x] * frequencies.f[i], &sine, &cosine);
  float* row = rope.row(blockIdx.x);
  row[i] = float(cosine), row[half + i] = float(sine);
}

}  // namespace

void rope_angles(Tensor rope, const int32_t* positions, std::span<const double> frequencies, Context& ctx) {
  if (rope.rows == 0) return;
  const int64_t half = std::ssize(frequencies);
  CHECK(half <= Frequencies::kMost, "heads of {} channels; the GPU rotates up to {}", 2 * half, 2 * Frequencies::kMost);
  Frequencies copy{};
  std::copy(frequencies.begin(), frequencies.end(), copy.f);
  launch_early(angles_kernel, dim3(unsigned(rope.rows)), unsigned(round_up(half, kWarp)), 0, ctx, matrix<float>(rope),
               positions, copy, int(half));
}

void rotate(Tensor x, Tensor rope, float direction, Context& ctx) {
  if (x.size() == 0) return;
  const int64_t half = rope.cols / 2, pairs = x.cols / 2;
  CHECK(pairs <= INT32_MAX, "{} columns of x", x.cols);
  dispatch(x.dtype, [&]<class T>() {
    // Packs must not cross from one half of a head to the other.
    dispatch_pack<T>({x.col_range(0, half), x, rope.col_range(0, half), rope}, [&]<int N>() {
      const Cover c = cover<N>(x.rows, pairs);
      launch(rotate_kernel<Element<T>, N>, c.grid, c.block, ctx, matrix<T>(x), matrix<float>(rope), direction, x.rows,
             pairs, unsigned(half));
    });
  });
}

}  // namespace tangram::cuda
