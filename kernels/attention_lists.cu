#include <algorithm>

#include "kernels/attention_cudnn.h"
#include "kernels/cover.cuh"

// What cuDNN's attention wants beside the tensors.

namespace tangram::cuda {
namespace {

constexpr int kThreads = 256;

/// One between lse and stats; a block has tokens of one sequence and head.
template <bool kGather>
__global__ void stats_kernel(Matrix<float> stats, Matrix<float> lse, int heads, int longest, int first,
                             const int32_t* offsets, int sequences) {
  const int row = int(blockIdx.x), s = first + row / heads, h = row % heads;
  const int begin = s < sequences ? offsets[s] : 0, tokens = s < sequences ? offsets[s + 1] - begin : 0;
  const int i = int(blockIdx.y) * kThreads + int(threadIdx.x);
  if (i >= longest) return;
  if constexpr (kGather)
    stats.row(row)[i] = i < tokens ? lse.row(begin + i)[h] : 0;
  else if (i < tokens)
    lse.row(begin + i)[h] = stats.row(row)[i];
}

struct Strides {
  int64_t of[8];
};

__global__ void list_kernel(int32_t* lengths, Matrix<int64_t> starts, Strides strides, const int32_t* offsets,
                            int sequences, int rounded) {
  const int s = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (s > rounded) return;
  if (s < rounded) lengths[s] = s < sequences ? offsets[s + 1] - offsets[s] : 0;
  for (int i = 0; i < 8; ++i) starts.row(i)[s] = offsets[min(s, sequences)] * strides.of[i];
}

template <bool kGather>
void move_stats(Tensor stats, Tensor lse, int64_t heads, int64_t first, const DeviceIndices& batch, Context& ctx) {
  const dim3 grid(unsigned(stats.rows), unsigned(ceil_div(stats.cols, kThreads)));
  launch(stats_kernel<kGather>, grid, kThreads, ctx, matrix<float>(stats), matrix<float>(lse), int(heads),
         int(stats.cols), int(first), batch.offsets, int(batch.sequences));
}

}  // namespace

void gather_stats(Tensor stats, Tensor lse, int64_t heads, int64_t first, const DeviceIndices& batch, Context& ctx) {
  move_stats<true>(stats, lse, heads, first, batch, ctx);
}

void scatter_stats(Tensor lse, Tensor stats, int64_t heads, int64_t first, const DeviceIndices& batch, Context& ctx) {
  move_stats<false>(stats, lse, heads, first, batch, ctx);
}

void list_sequences(Tensor lengths, Tensor starts, std::initializer_list<int64_t> strides, const DeviceIndices& batch,
                    Context& ctx) {
  Strides all{};
  std::copy(strides.begin(), strides.end(), all.of);
  launch(list_kernel, unsigned(ceil_div(starts.cols, kThreads)), kThreads, ctx, lengths.as<int32_t>(),
         Matrix<int64_t>{starts.as<int64_t>(), starts.stride}, all, batch.offsets, int(batch.sequences),
         int(lengths.cols));
}

}  // namespace tangram::cuda
