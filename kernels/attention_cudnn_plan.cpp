#include <bit>

#include "kernels/attention_cudnn.h"

namespace tangram::cuda {
namespace {

constexpr int64_t kMostWorkspace = int64_t{5} << 30;
constexpr int64_t kMargin = int64_t{64} << 20;  // for what the library does not document

/// What a call may need. The deterministic backward pass keeps dp, in bf16, of all queries and keys; beside it are dk
/// and dv of every query head, the accumulated dq, and sums a query.
int64_t workspace_bound(bool backward, int64_t sequences, int64_t longest, int64_t heads, int64_t head_dim) {
  const int64_t rows = sequences * heads * round_up(longest, 128);
  if (!backward) return kMargin + rows * 16;
  return kMargin + rows * (round_up(longest, 128) * 2 + head_dim * 3 * 4 + 16);
}

bool served(std::initializer_list<Tensor> tensors, const AttentionShape& shape, Indices offsets) {
  if (!kCudnnBuilt || offsets.span().empty() || shape.head_dim > 128 || shape.head_dim % 8 != 0) return false;
  for (const Tensor& x : tensors)
    if (x.dtype != DType::bf16 || reinterpret_cast<uintptr_t>(x.data) % 16 != 0 || x.stride % 8 != 0) return false;
  return true;
}

int64_t next_divisor(int64_t n, int64_t below) {
  while (below > 1 && n % below != 0) --below;
  return below;
}

}  // namespace

std::optional<CudnnAttention> cudnn_attention(bool backward, std::initializer_list<Tensor> tensors,
                                              const AttentionShape& shape, Indices offsets, Context& ctx) {
  if (!served(tensors, shape, offsets)) return std::nullopt;
  CudnnAttention plan{};
  plan.sequences = std::ssize(offsets) - 1;
  for (int64_t s = 0; s < plan.sequences; ++s)
    plan.longest = std::max<int64_t>(plan.longest, offsets[size_t(s + 1)] - offsets[size_t(s)]);
  if (plan.longest < 2) return std::nullopt;  // which cuDNN refuses
  plan.ragged = plan.sequences * plan.longest != offsets[size_t(plan.sequences)];
  if (plan.ragged) {
    plan.sequences = int64_t(std::bit_ceil(uint64_t(plan.sequences)));
    plan.longest = int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(plan.longest, 128))));
  }

  const int64_t group = shape.heads / shape.kv_heads;
  const auto bound = [&] {
    return workspace_bound(backward, plan.sequences_at_once, plan.longest, plan.kv_at_once * group, shape.head_dim);
  };
  plan.sequences_at_once = plan.sequences, plan.kv_at_once = shape.kv_heads;
  while (bound() > kMostWorkspace && plan.sequences_at_once > 1 && !plan.ragged)
    plan.sequences_at_once = next_divisor(plan.sequences, plan.sequences_at_once - 1);
  while (bound() > kMostWorkspace && plan.kv_at_once > 1)
    plan.kv_at_once = next_divisor(shape.kv_heads, plan.kv_at_once - 1);
  plan.workspace_bytes = bound();
  if (plan.workspace_bytes > kMostWorkspace) return std::nullopt;

  const auto lay_out = [&](Arena& memory) {
    plan.stats = memory.tensor(plan.sequences_at_once * plan.kv_at_once * group, plan.longest, DType::f32);
    if (plan.ragged) {
      plan.lengths = memory.tensor(1, plan.sequences, DType::i32);
      plan.starts = memory.tensor(8, plan.sequences + 1, DType::i64);
    }
    plan.workspace = memory.tensor(1, plan.workspace_bytes, DType::u8);
  };
  Arena counter = Arena::planner();
  lay_out(counter);
  // Where memory was planned it is there; a context that was made with little goes on without cuDNN.
  if (counter.peak_bytes() > ctx.scratch.capacity_bytes() - round_up(ctx.scratch.used_bytes(), 64)) return std::nullopt;
  lay_out(ctx.scratch);
  return plan;
}

}  // namespace tangram::cuda
