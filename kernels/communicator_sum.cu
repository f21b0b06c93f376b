#include "kernels/cuda.cuh"
#include "kernels/nccl.h"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 4096;  // more elements than these take go round a loop
constexpr int kMostParts = 256;        // their addresses are 2 KiB of a launch's parameters
constexpr int kMostLevels = 9;         // of a tree over so many

template <class E>
struct Parts {
  const E* data[kMostParts];
  int count;
};

// The sums of whole subtrees that wait for their right neighbour stand on a stack, the largest lowest; a leaf closes as
// many as its number has trailing ones.
template <class E>
__global__ void __launch_bounds__(kThreads) tree_sum_kernel(E* out, Parts<E> parts, int64_t elements) {
  for (int64_t e = blockIdx.x * int64_t{kThreads} + threadIdx.x; e < elements; e += int64_t{gridDim.x} * kThreads) {
    float waiting[kMostLevels];
    int height = 0;
    for (int i = 0; i < parts.count; ++i) {
      float sum = to_float(parts.data[i][e]);
      for (int bits = i; bits & 1; bits >>= 1) sum = waiting[--height] + sum;
      waiting[height++] = sum;
    }
    float sum = waiting[--height];
    while (height > 0) sum = waiting[--height] + sum;
    out[e] = from_float<E>(sum);
  }
}

}  // namespace

void tree_sum(Tensor out, std::span<const Tensor> parts, Stream stream) {
  CHECK(parts.size() <= kMostParts, "a sum of {} parts; on a GPU of at most {}", parts.size(), kMostParts);
  if (out.size() == 0) return;
  dispatch(out.dtype, [&]<class T>() {
    Parts<Element<T>> all{};
    for (const Tensor& part : parts) all.data[all.count++] = data<T>(part);
    cudaLaunchConfig_t config{};
    config.gridDim = unsigned(std::min(kMostBlocks, ceil_div(out.size(), kThreads)));
    config.blockDim = kThreads, config.stream = stream;
    CUDA_CHECK(cudaLaunchKernelEx(&config, tree_sum_kernel<Element<T>>, data<T>(out), all, out.size()));
  });
}

}  // namespace tangram::cuda
