#include <omp.h>

#include "kernels/attention_cudnn.h"
#include "kernels/attention_tiles.h"
#include "kernels/check.h"
#include "kernels/fast_math.h"

namespace tangram {
namespace {

struct Backward {
  Tensor dq, dk, dv, dout, out, lse, q, k, v;
};

/// One work item: a sequence and a key/value head.
template <class T>
struct Item {
  int64_t first_row, tokens, kv_head;
  const HeadShape& head;

  T* key_row(const Tensor& x, int64_t j) const { return x.row<T>(first_row + j) + kv_head * head.head_dim; }
  /// Stacked row r of the block from position `query` on.
  T* query_row(const Tensor& x, int64_t query, int64_t r) const {
    return x.row<T>(first_row + query + r / head.group) + (kv_head * head.group + r % head.group) * head.head_dim;
  }
};

/// Scratch for the keys of an item, packed by tile, and their gradients.
struct Keys {
  float *keys, *keys_t, *values_t;  ///< for dq, for scores, for dp
  float *dk, *dv;                   ///< (tokens, padded)

  Keys(int64_t tokens, const HeadShape& head, Workspace& scratch)
      : keys(scratch.take(round_up(tokens, kTileKeys) * head.padded)),
        keys_t(scratch.take(round_up(tokens, kTileKeys) * head.head_dim)),
        values_t(scratch.take(round_up(tokens, kTileKeys) * head.head_dim)),
        dk(scratch.take(tokens * head.padded)),
        dv(scratch.take(tokens * head.padded)) {}
};

/// Scratch for a block of queries and its tile.
struct Queries {
  float *q, *dout;                ///< for scores, for dp
  float *q_panels, *dout_panels;  ///< for dk, for dv
  float* dq;                      ///< (rows, padded)
  float *s, *dp, *rounded;        ///< (rows, kTileStride)
  float *lse, *delta;             ///< (rows)

  Queries(int64_t rows, const HeadShape& head, Workspace& scratch)
      : q(scratch.take(rows * head.padded)),
        dout(scratch.take(rows * head.padded)),
        q_panels(scratch.take(rows * head.padded)),
        dout_panels(scratch.take(rows * head.padded)),
        dq(scratch.take(rows * head.padded)),
        s(scratch.take(rows * kTileStride)),
        dp(scratch.take(rows * kTileStride)),
        rounded(scratch.take(rows * kTileStride)),
        lse(scratch.take(rows)),
        delta(scratch.take(rows)) {}
};

/// Floats of scratch for an item of at most `tokens` tokens.
int64_t backward_floats(int64_t tokens, const HeadShape& head) {
  Workspace counter;
  Keys(tokens, head, counter), Queries(head.block_rows(), head, counter);
  return counter.used;
}

/// From scores and dp to p and ds: s = exp(scale s - lse), dp = s (dp - delta).
void softmax_backward(float* s, float* dp, const float* lse, const float* delta, const Tile& tile,
                      const HeadShape& head) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    const Tile::Range range = tile.touched[row / kTileRows];
    float *p = s + row * kTileStride, *ds = dp + row * kTileStride;
    const float scale = head.scale, lse_row = lse[row], delta_row = delta[row];
    for (int64_t j = range.begin; j < range.end; ++j) {
      p[j] = fast_exp(p[j] * scale - lse_row);
      ds[j] = p[j] * (ds[j] - delta_row);
    }
  }
}

template <class T>
float dot(const T* a, const T* b, int64_t D) {
  Lanes sum{};
  for (int64_t d = 0; d < D; d += kLanes) sum += channels_at(a, d, D) * channels_at(b, d, D);
  return lane_sum(sum);
}

template <class T, class Word>
void pack_keys(const Keys& keys, const Backward& t, const Item<T>& item) {
  const HeadShape& head = item.head;
  for (int64_t j = 0; j < item.tokens; j += kTileKeys) {
    const int64_t count = std::min(kTileKeys, item.tokens - j);
    const auto key = [&](int64_t i) { return item.key_row(t.k, j + i); };
    pack_rows<Word>(keys.keys + j * head.padded, count, head.words(kTileKeys), head, key);
    pack_transposed<Word>(keys.keys_t + j * head.head_dim, count, head, key);
    pack_transposed<Word>(keys.values_t + j * head.head_dim, count, head,
                          [&](int64_t i) { return item.key_row(t.v, j + i); });
  }
}

template <class T, class Word>
void pack_queries(const Queries& block, int64_t query, int64_t rows, const Backward& t, const Item<T>& item) {
  const HeadShape& head = item.head;
  const auto q = [&](int64_t r) { return item.query_row(t.q, query, r); };
  const auto dout = [&](int64_t r) { return item.query_row(t.dout, query, r); };
  pack_plain<Word>(block.q, rows, head, q);
  pack_plain<Word>(block.dout, rows, head, dout);
  pack_rows<Word>(block.q_panels, rows, head.words(rows), head, q);
  pack_rows<Word>(block.dout_panels, rows, head.words(rows), head, dout);
  for (int64_t r = 0; r < rows; ++r) {
    block.delta[r] = dot<T>(dout(r), item.query_row(t.out, query, r), head.head_dim);
    block.lse[r] =
        t.lse.row<float>(item.first_row + query + r / head.group)[item.kv_head * head.group + r % head.group];
  }
}

/// Adds the part of one tile, whose first key is j, to dq, dk and dv.
template <class Word>
void tile_backward(const Queries& block, const Keys& keys, int64_t j, const Tile& tile, const HeadShape& head) {
  const int64_t P = head.padded;
  tile_scores(block.s, block.q, keys.keys_t + j * head.head_dim, tile, head);
  tile_scores(block.dp, block.dout, keys.values_t + j * head.head_dim, tile, head);
  tile_mask(block.s, tile, head);
  softmax_backward(block.s, block.dp, block.lse, block.delta, tile, head);
  tile_combine(block.dq, tile_columns<Word>(block.rounded, block.dp, tile), keys.keys + j * P, tile, head);
  tile_scatter(keys.dv + j * P, tile_rows<Word>(block.s, block.s, tile), block.dout_panels, tile, head);
  tile_scatter(keys.dk + j * P, tile_rows<Word>(block.dp, block.dp, tile), block.q_panels, tile, head);
}

/// The gradient of one item. Blocks add to dk and dv in order of position.
template <class T, class Word>
void backward_item(const Backward& t, const Item<T>& item, Workspace scratch) {
  const HeadShape& head = item.head;
  const int64_t D = head.head_dim, P = head.padded;
  const Keys keys(item.tokens, head, scratch);
  const Queries block(head.block_rows(), head, scratch);
  pack_keys<T, Word>(keys, t, item);
  std::fill(keys.dk, keys.dk + item.tokens * P, 0.0f);
  std::fill(keys.dv, keys.dv + item.tokens * P, 0.0f);

  Tile tile;
  for (int64_t query = 0; query < item.tokens; query += head.block_tokens) {
    const int64_t tokens = std::min(head.block_tokens, item.tokens - query), rows = tokens * head.group;
    pack_queries<T, Word>(block, query, rows, t, item);
    const int64_t next_tokens = std::clamp<int64_t>(item.tokens - query - tokens, 0, head.block_tokens);
    for (const Tensor& x : {t.q, t.dout, t.out})
      prefetch_rows(next_tokens * head.group, D, [&](int64_t r) { return item.query_row(x, query, rows + r); });
    std::fill(block.dq, block.dq + rows * P, 0.0f);
    for (int64_t j = head.first_key(query) / kTileKeys * kTileKeys; j < query + tokens; j += kTileKeys) {
      tile.place(query, tokens, j, std::min(kTileKeys, query + tokens - j), head);
      tile_backward<Word>(block, keys, j, tile, head);
    }
    for (int64_t r = 0; r < rows; ++r) {
      T* dq = item.query_row(t.dq, query, r);
      for (int64_t d = 0; d < D; ++d) dq[d] = T(block.dq[r * P + d] * head.scale);
    }
  }
  for (int64_t j = 0; j < item.tokens; ++j) {
    T *dk = item.key_row(t.dk, j), *dv = item.key_row(t.dv, j);
    for (int64_t d = 0; d < D; ++d) dk[d] = T(keys.dk[j * P + d] * head.scale), dv[d] = T(keys.dv[j * P + d]);
  }
}

}  // namespace

void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor q, Tensor k,
                        Tensor v, const AttentionShape& shape, Indices offsets, Context& ctx) {
  for (const Tensor& x : {q, dq, out, dout})
    check_attention("q, dq, out or dout", x, shape.heads, shape, q.rows, q.dtype);
  for (const Tensor& x : {k, v, dk, dv}) check_attention("k, v, dk or dv", x, shape.kv_heads, shape, q.rows, q.dtype);
  CHECK(lse.rows == q.rows && lse.cols == shape.heads && lse.dtype == DType::f32,
        "lse is ({}, {}), must be ({}, {}) f32", lse.rows, lse.cols, q.rows, shape.heads);
  const int64_t longest = check_offsets(offsets, q.rows);
  ctx.attention_flops += 2.5 * attention_flops(shape, offsets.span());

  const ArenaScope scope(ctx.scratch);
  if (ctx.device == Device::cuda) {
    const cuda::DeviceIndices batch{offsets.on_device(ctx), nullptr, nullptr, std::ssize(offsets) - 1};
    const Tensor delta = ctx.scratch.tensor(q.rows, shape.heads, DType::f32);
    const auto cudnn = cuda::cudnn_attention(true, {dq, dk, dv, dout, out, q, k, v}, shape, offsets, ctx);
    if (ctx.planning()) return;
    if constexpr (kCudaBuilt)
      if (on_cuda(ctx, {dq, dk, dv, dout, out, lse, q, k, v}))
        return cuda::attention_backward(dq, dk, dv, dout, out, lse, delta, q, k, v, shape, batch,
                                        cudnn ? &*cudnn : nullptr, ctx);
  }

  const HeadShape head(shape, q.dtype);
  const Tensor scratch = ctx.scratch.tensor(ctx.threads, backward_floats(longest, head), DType::f32);
  if (ctx.planning()) return;
  const Backward tensors{dq, dk, dv, dout, out, lse, q, k, v};
  const int64_t items = static_cast<int64_t>(offsets.size() - 1) * shape.kv_heads;
  dispatch_words(q.dtype, head, [&]<class T, class Word>() {
  // A thread owns whole items, so dk and dv are summed in one order whatever the number of threads.
#pragma omp parallel for num_threads(ctx.threads) schedule(static, 1)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t s = item / shape.kv_heads;
      const Item<T> work{offsets[s], offsets[s + 1] - offsets[s], item % shape.kv_heads, head};
      backward_item<T, Word>(tensors, work, {scratch.row<float>(omp_get_thread_num())});
    }
  });
}

}  // namespace tangram
