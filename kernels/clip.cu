#include "kernels/clip.h"

#include "kernels/multi_tensor.cuh"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPack = 4;         // floats of one access
constexpr int kPacksAtOnce = 8;  // a block of gradient: loads in flight of a thread
static_assert(kThreads * kPack * kPacksAtOnce == kClipBlock);

__device__ double square(float x) { return double(x) * x; }

__global__ void __launch_bounds__(kThreads, 4)
    squares_kernel(double* partial, const ClipEntry* table, int64_t entries) {
  __shared__ double shared[kThreads / kWarp];
  const ClipEntry entry = entry_of_block(table, entries, blockIdx.x);
  const int64_t first = (blockIdx.x - entry.first_block) * kClipBlock;
  const auto count = int(min(kClipBlock, entry.size - first));
  const float* x = entry.grad + first;
  double sum = 0;
  if (count == kClipBlock && reinterpret_cast<uintptr_t>(x) % (kPack * sizeof(float)) == 0) {
    Pack<float, kPack> p[kPacksAtOnce];
#pragma unroll
    for (int k = 0; k < kPacksAtOnce; ++k)
      p[k] = reinterpret_cast<const Pack<float, kPack>*>(x)[threadIdx.x + k * kThreads];
#pragma unroll
    for (int k = 0; k < kPacksAtOnce; ++k)
      for (int j = 0; j < kPack; ++j) sum += square(p[k].v[j]);
  } else {
    for (int i = threadIdx.x; i < count; i += kThreads) sum += square(x[i]);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// A block adds up a group.
__global__ void __launch_bounds__(kThreads)
    groups_kernel(double* sums, const double* partial, const int64_t* group_starts) {
  __shared__ double shared[kThreads / kWarp];
  double sum = 0;
  const int64_t last = group_starts[blockIdx.x + 1];
#pragma unroll 8
  for (int64_t i = group_starts[blockIdx.x] + threadIdx.x; i < last; i += kThreads) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void sums_of_squares(double* sums, Tensor group_starts, Tensor table, double* partial, int64_t blocks, Context& ctx) {
  const int64_t entries = table.cols / int64_t{sizeof(ClipEntry)};
  const int64_t groups = group_starts.cols / int64_t{sizeof(int64_t)} - 1;
  if (blocks > 0) launch(squares_kernel, unsigned(blocks), kThreads, ctx, partial, table.as<ClipEntry>(), entries);
  launch(groups_kernel, unsigned(groups), kThreads, ctx, sums, partial, group_starts.as<int64_t>());
}

}  // namespace tangram::cuda
