#pragma once
#include <optional>
#include <string>

#include "kernels/attention.h"

namespace tangram::cuda {

/// Whether this build has cuDNN's fused attention for training. It serves bf16 with head_dim a multiple of 8 up to 128
/// and rows that can be read 16 bytes at a time, where the host knows the offsets; else, and where cuDNN is not
/// installed or refuses, the kernels of attention.cu and attention_backward.cu do.
inline constexpr bool kCudnnBuilt = TANGRAM_HAS_CUDNN;

/// How cuDNN takes a packed batch, and the memory that it may need. It follows from sizes alone, so a plan made without
/// a GPU knows it. cuDNN compiles one graph for each of these shapes: sequences of different lengths are rounded up to
/// powers of two, in number and in the longest length, with empty sequences at the end.
struct CudnnAttention {
  int64_t sequences, longest;             ///< of a graph
  bool ragged;                            ///< the lengths differ
  int64_t sequences_at_once, kv_at_once;  ///< of a call: the backward pass in parts, to keep its workspace small
  int64_t workspace_bytes;                ///< of a call: a bound; a graph that wants more is not used
  Tensor stats;                           ///< lse of a call's sequences and heads, (sequences * heads, longest) f32
  Tensor lengths, starts;                 ///< (1, sequences) i32 and (8, sequences + 1) i64, if ragged
  Tensor workspace;
};

/// The above with its memory taken from ctx.scratch; nothing if cuDNN cannot serve the batch. `tensors`: all of T.
std::optional<CudnnAttention> cudnn_attention(bool backward, std::initializer_list<Tensor> tensors,
                                              const AttentionShape& shape, Indices offsets, Context& ctx);

/// attention_forward and attention_backward by cuDNN. False, with nothing done, if it refuses; then cudnn_refusal says
/// why. Deterministic.
bool cudnn_attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape,
                             const DeviceIndices& batch, const CudnnAttention& plan, Context& ctx);
bool cudnn_attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor q, Tensor k,
                              Tensor v, const AttentionShape& shape, const DeviceIndices& batch,
                              const CudnnAttention& plan, Context& ctx);
/// Why cuDNN did not serve the last call that it refused; empty if it has refused none.
std::string cudnn_refusal(const Context& ctx);

// attention_lists.cu

/// stats[(s * heads + h) * longest + i] = lse of token i of sequence first + s and head h; 0 where the sequence ends
/// before. lse is given from the first of `heads` heads on.
void gather_stats(Tensor stats, Tensor lse, int64_t heads, int64_t first, const DeviceIndices& batch, Context& ctx);
/// The other way, for the tokens that are there.
void scatter_stats(Tensor lse, Tensor stats, int64_t heads, int64_t first, const DeviceIndices& batch, Context& ctx);
/// Lengths of the sequences, 0 beyond them; starts[i][s] = offsets[s] * strides[i].
void list_sequences(Tensor lengths, Tensor starts, std::initializer_list<int64_t> strides, const DeviceIndices& batch,
                    Context& ctx);

}  // namespace tangram::cuda
