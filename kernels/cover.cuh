#pragma once
#include <algorithm>

#include "kernels/cuda.cuh"

// How elementwise kernels lie over matrices.

namespace tangram::cuda {

/// A matrix as a kernel sees it.
template <class E>
struct Matrix {
  E* data;
  int64_t stride;

  __device__ E* row(int64_t r) const { return data + r * stride; }
  /// Row r in packs of N elements.
  template <int N>
  __device__ Pack<E, N>* packs(int64_t r) const {
    return reinterpret_cast<Pack<E, N>*>(row(r));
  }
  /// Columns c to c + N of row r.
  template <int N>
  __device__ Pack<E, N>& at(int64_t r, int64_t c) const {
    return *reinterpret_cast<Pack<E, N>*>(row(r) + c);
  }
};

template <class T>
Matrix<Element<T>> matrix(Tensor x) {
  return {data<T>(x), x.stride};
}

constexpr int kCoverThreads = 256;

/// A grid whose x runs along the rows of a matrix and y down its columns. Narrow rows share a block, so that threads
/// find their place without a division.
struct Cover {
  dim3 grid, block;
};

/// A thread for every pack of N elements; with fewer than that takes in `max_blocks`, threads go on to further packs.
template <int N>
Cover cover(int64_t rows, int64_t cols, int64_t max_blocks = 1 << 30) {
  const int64_t packs = std::max<int64_t>(1, cols / N);
  unsigned width = 1;
  while (width < packs && width < kCoverThreads) width *= 2;
  const unsigned height = kCoverThreads / width;
  const int64_t x = std::min(ceil_div(packs, width), max_blocks);
  const int64_t y = std::clamp<int64_t>(ceil_div(rows, height), 1, std::clamp<int64_t>(max_blocks / x, 1, 65535));
  return {dim3(unsigned(x), unsigned(y)), dim3(width, height)};
}

/// Calls f(row, first column) for every pack of this thread under a Cover; cols is a multiple of N.
template <int N, class F>
__device__ void for_each_pack(int64_t rows, int64_t cols, F&& f) {
  for (int64_t r = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; r < rows; r += int64_t{gridDim.y} * blockDim.y)
    for (int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N; c < cols;
         c += int64_t{gridDim.x} * blockDim.x * N)
      f(r, c);
}

}  // namespace tangram::cuda
