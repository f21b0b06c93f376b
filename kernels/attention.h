#pragma once
#include <limits>

#include "kernels/indices.h"

namespace tangram {

/// Causal grouped-query attention (Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245).
/// Query head h reads key/value head h / (heads / kv_heads). A token attends to itself and the window - 1 before it.
struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  int64_t window = std::numeric_limits<int64_t>::max();
};

/// Attention inside each sequence of a packed batch; memory grows linearly with the sequence.
///
///   s[i,j] = q[i] . k[j] / sqrt(D)  for i - window < j <= i,  else -inf
///   p[i,j] = exp(s[i,j] - lse[i])     lse[i] = log sum_j exp s[i,j]     out[i] = sum_j p[i,j] v[j]
///
///   q, out   (N, heads * D)     T
///   k, v     (N, kv_heads * D)  T     q, k, v already rotated; any row strides (columns of one wide product)
///   lse      (N, heads)  f32    kept for the backward pass
///   offsets  (S + 1)            sequence s is rows offsets[s] to offsets[s + 1]; offsets[0] = 0, offsets[S] = N
///
/// Sums run in f32. In bf16, p is rounded to bf16 before it meets v, and so are p and ds in the backward pass, where
/// the machine multiplies bf16. A query's result has the same bits whatever else is in the batch, whatever follows it
/// in its sequence, and for any number of threads; on a GPU, whenever the batch has the same sizes.
void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape,
                       Indices offsets, Context& ctx);

/// Operations of attention_forward: 4 heads D for every pair of a query and a key that it sees. Of attention_backward
/// 2.5 times as many, with scores computed again.
double attention_flops(const AttentionShape& shape, std::span<const int32_t> offsets);

/// Gradient of attention_forward; p is computed again from q, k and lse.
///
///   delta[i] = dout[i] . out[i]              dp[i,j] = dout[i] . v[j]     ds[i,j] = p[i,j] (dp[i,j] - delta[i])
///   dq[i] = sum_j ds[i,j] k[j] / sqrt(D)     dk[j] = sum_i ds[i,j] q[i] / sqrt(D)     dv[j] = sum_i p[i,j] dout[i]
///
///   dq, dk, dv  like q, k, v; overwritten; must not overlap them
///
/// On the CPU one thread at a time works on a sequence and key/value head: their number bounds the threads that help.
void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor q, Tensor k,
                        Tensor v, const AttentionShape& shape, Indices offsets, Context& ctx);

/// Keys and values of one layer in pages: row (page * page_tokens + t) holds token t of the page.
struct KvPages {
  Tensor keys, values;  ///< (pages * page_tokens, kv_heads * D)  T
  int64_t page_tokens = 0;
};

/// Where the tokens of each sequence are: position p of sequence s is token p % page_tokens of page
/// pages[s * pages_per_sequence + p / page_tokens]. A contiguous cache is one page a sequence.
struct PageTable {
  Indices pages;  ///< (S, pages_per_sequence)
  int64_t pages_per_sequence = 0;
};

/// Writes the keys and values of new tokens to their pages. Token i of sequence s is row offsets[s] + i and stands at
/// position past[s] + i.
void kv_write(const KvPages& cache, Tensor k, Tensor v, const PageTable& table, Indices offsets, Indices past,
              Context& ctx);

/// rope_forward (kernels/rope.h) of q and k, then kv_write of k and v, which a GPU does in one pass: the rotated keys
/// go to their pages, and what k holds afterwards is not defined.
///
///   q     (N, heads * D)  T     rotated in place
///   rope  (N, D)  f32           from rope_angles
void rope_kv_write(const KvPages& cache, Tensor q, Tensor k, Tensor v, Tensor rope, const PageTable& table,
                   Indices offsets, Indices past, Context& ctx);

/// Attention of new tokens over everything cached, themselves included (call kv_write first): decode if a sequence
/// brings one token, prefill (also of a later chunk) if it brings many.
///
///   q, out  (N, heads * D)  T     row offsets[s] + i is the query at position past[s] + i
///
/// The bits are those of attention_forward on the whole sequence; on a GPU the order of sums differs.
void attention_cached(Tensor out, Tensor q, const KvPages& cache, const PageTable& table, const AttentionShape& shape,
                      Indices offsets, Indices past, Context& ctx);

namespace cuda {  // attention.cu, attention_backward.cu, kv_write.cu; arguments already checked

/// Lists where the GPU reads them.
struct DeviceIndices {
  const int32_t *offsets, *past = nullptr, *pages = nullptr;
  int64_t sequences;
};

/// How the work of attention_cached is cut: tiles of stacked queries (16, 64 or 128; a token has one for every query
/// head of a group), the keys of each in `splits` parts. With more than one, results of parts are kept in between.
struct CachedParts {
  int64_t tile_rows, splits;
  Tensor out;  ///< (N * heads, splits * D) f32
  Tensor lse;  ///< (N * heads, splits) f32, of base 2
};

struct CudnnAttention;  // attention_cudnn.h

/// `cudnn` is null where cuDNN cannot serve.
void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape,
                       const DeviceIndices& batch, const CudnnAttention* cudnn, Context& ctx);
/// delta is (N, heads) f32 of scratch memory.
void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor delta, Tensor q,
                        Tensor k, Tensor v, const AttentionShape& shape, const DeviceIndices& batch,
                        const CudnnAttention* cudnn, Context& ctx);
void kv_write(const KvPages& cache, Tensor k, Tensor v, const PageTable& table, const DeviceIndices& batch,
              Context& ctx);
void rope_kv_write(const KvPages& cache, Tensor q, Tensor k, Tensor v, Tensor rope, const PageTable& table,
                   const DeviceIndices& batch, Context& ctx);
void attention_cached(Tensor out, Tensor q, const KvPages& cache, const PageTable& table, const AttentionShape& shape,
                      const DeviceIndices& batch, const CachedParts& parts, Context& ctx);
}  // namespace cuda

}  // namespace tangram
