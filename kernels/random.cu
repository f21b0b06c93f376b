#include "kernels/random.h"

#include "kernels/cover.cuh"

namespace tangram::cuda {
namespace {

// The function of the same name in random.cpp.
__device__ float hashed(uint32_t bits) {
  bits *= 2654435761u;
  bits = (bits ^ (bits >> 15)) * 2246822519u;
  return float((bits ^ (bits >> 13)) >> 8) * 0x1p-23f - 1;
}

template <class E>
__global__ void fill_kernel(Matrix<E> x, int64_t rows, int64_t cols, float center, float width, uint32_t key) {
  for_each_pack<1>(rows, cols, [&](int64_t r, int64_t c) {
    x.row(r)[c] = from_float<E>(center + width * hashed(uint32_t(r * cols + c) ^ key));
  });
}

}  // namespace

void fill_for_measuring(Tensor x, float center, float width, uint32_t key, Context& ctx) {
  if (x.size() == 0) return;
  const Cover grid = cover<1>(x.rows, x.cols, 4096);
  dispatch(x.dtype, [&]<class T>() {
    launch(fill_kernel<Element<T>>, grid.grid, grid.block, ctx, matrix<T>(x), x.rows, x.cols, center, width, key);
  });
}

}  // namespace tangram::cuda
