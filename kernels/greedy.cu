#include "kernels/candidate.cuh"
#include "kernels/early_launch.cuh"
#include "kernels/greedy.h"

namespace tangram::cuda {
namespace {

constexpr int kThreads = 1024;  // of a block, which owns a sequence
constexpr int kUnrolled = 8;    // loads of a thread in flight

template <int N>
__global__ void __launch_bounds__(kThreads)
    greedy_kernel(int32_t* ids, float* best, int32_t* past, const float* logits, int64_t stride, int V) {
  wait_for_previous();
  let_next_start();
  __shared__ Candidate of_warps[kWarp];
  const float* row = logits + int64_t{blockIdx.x} * stride;
  Candidate c{-INFINITY, 0};
#pragma unroll kUnrolled
  for (int i = int(threadIdx.x) * N; i < V; i += kThreads * N) {
    const auto pack = *reinterpret_cast<const Pack<float, N>*>(row + i);
    for (int j = 0; j < N; ++j) c = better(c, {pack.v[j] == pack.v[j] ? pack.v[j] : INFINITY, i + j});
  }
  c = best_of_warp(c);
  const int lane = int(threadIdx.x) % kWarp;
  if (lane == 0) of_warps[threadIdx.x / kWarp] = c;
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  c = best_of_warp(of_warps[lane]);
  if (lane > 0) return;
  ids[blockIdx.x] = c.id;
  best[blockIdx.x] = row[c.id];
  ++past[blockIdx.x];
}

}  // namespace

void greedy_step(Tensor ids, Tensor best, Tensor past, Tensor logits, Context& ctx) {
  if (logits.rows == 0) return;
  dispatch_pack<float>({logits}, [&]<int N>() {
    launch_early(greedy_kernel<N>, dim3(unsigned(logits.rows)), kThreads, 0, ctx, data<int32_t>(ids), data<float>(best),
                 data<int32_t>(past), data<float>(logits), logits.stride, int(logits.cols));
  });
}

}  // namespace tangram::cuda
