#include <omp.h>

#include "kernels/attention_tiles.h"
#include "kernels/fast_math.h"

namespace tangram {
namespace {

struct Backward {
  Tensor dq, dk, dv, dout, out, lse, q, k, v;
};

int64_t backward_floats(int64_t tokens, const HeadShape& head) {
  const int64_t rows = head.block_rows();
  constexpr int64_t kTakes = 14;  // each may be rounded up
  return round_up(tokens, kTileKeys) * (2 * head.head_dim + head.padded) + 2 * tokens * head.padded +
         rows * (5 * head.padded + 2 * kTileStride + 2) + kTakes * kPanelCols;
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

float dot(const float* a, const float* b, int64_t count) {
  Lanes sum{};
  for (int64_t i = 0; i < count; i += kLanes) sum += load(a + i) * load(b + i);
  return lane_sum(sum);
}

/// The gradient of one sequence and key/value head. Blocks add to dk and dv in order of position.
template <class T>
void backward_item(const Backward& t, int64_t first_row, int64_t tokens, int64_t kv_head, const HeadShape& head,
                   Workspace scratch) {
  const int64_t D = head.head_dim, P = head.padded, block_rows = head.block_rows();
  const int64_t query_channel = kv_head * head.group * D, key_channel = kv_head * D;
  float* keys_t = scratch.take(round_up(tokens, kTileKeys) * D);
  float* values_t = scratch.take(round_up(tokens, kTileKeys) * D);
  float* keys = scratch.take(round_up(tokens, kTileKeys) * P);
  float *dk = scratch.take(tokens * P), *dv = scratch.take(tokens * P);
  float *q = scratch.take(block_rows * P), *q_panels = scratch.take(block_rows * P);
  float *dout = scratch.take(block_rows * P), *dout_panels = scratch.take(block_rows * P);
  float* dq = scratch.take(block_rows * P);
  float *s = scratch.take(block_rows * kTileStride), *dp = scratch.take(block_rows * kTileStride);
  float *lse = scratch.take(block_rows), *delta = scratch.take(block_rows);

  const auto key_row = [&](const Tensor& x, int64_t j) { return x.row<T>(first_row + j) + key_channel; };
  for (int64_t j = 0; j < tokens; j += kTileKeys) {
    const int64_t count = std::min(kTileKeys, tokens - j);
    pack_transposed(keys_t + j * D, count, head, [&](int64_t i) { return key_row(t.k, j + i); });
    pack_transposed(values_t + j * D, count, head, [&](int64_t i) { return key_row(t.v, j + i); });
    pack_rows(keys + j * P, count, kTileKeys, head, [&](int64_t i) { return key_row(t.k, j + i); });
  }
  std::fill(dk, dk + tokens * P, 0.0f);
  std::fill(dv, dv + tokens * P, 0.0f);

  Tile tile;
  for (int64_t query = 0; query < tokens; query += head.block_tokens) {
    const int64_t block = std::min(head.block_tokens, tokens - query), rows = block * head.group;
    const auto query_row = [&](const Tensor& x, int64_t r) {
      return x.row<T>(first_row + query + r / head.group) + query_channel + r % head.group * D;
    };
    pack_plain(q, rows, head, [&](int64_t r) { return query_row(t.q, r); });
    pack_plain(dout, rows, head, [&](int64_t r) { return query_row(t.dout, r); });
    pack_plain(dq, rows, head, [&](int64_t r) { return query_row(t.out, r); });  // dq serves as room for out here
    const int64_t next_rows = std::clamp<int64_t>(tokens - query - block, 0, head.block_tokens) * head.group;
    for (const Tensor& x : {t.q, t.dout, t.out})
      prefetch_rows(next_rows, head, [&](int64_t r) { return query_row(x, rows + r); });
    pack_rows(q_panels, rows, rows, head, [&](int64_t r) { return q + r * P; });
    pack_rows(dout_panels, rows, rows, head, [&](int64_t r) { return dout + r * P; });
    for (int64_t r = 0; r < rows; ++r) {
      delta[r] = dot(dout + r * P, dq + r * P, P);
      lse[r] = t.lse.row<float>(first_row + query + r / head.group)[kv_head * head.group + r % head.group];
    }
    std::fill(dq, dq + rows * P, 0.0f);
    for (int64_t j = head.first_key(query) / kTileKeys * kTileKeys; j < query + block; j += kTileKeys) {
      tile.place(query, block, j, std::min(kTileKeys, query + block - j), head);
      tile_scores(s, q, keys_t + j * D, tile, head);
      tile_scores(dp, dout, values_t + j * D, tile, head);
      tile_mask(s, tile, head);
      softmax_backward(s, dp, lse, delta, tile, head);
      tile_scatter(dv + j * P, s, dout_panels, tile, head);
      tile_scatter(dk + j * P, dp, q_panels, tile, head);
      tile_combine(dq, dp, keys + j * P, tile, head);
    }
    for (int64_t r = 0; r < rows; ++r) {
      T* out = query_row(t.dq, r);
      for (int64_t d = 0; d < D; ++d) out[d] = T(dq[r * P + d] * head.scale);
    }
  }
  for (int64_t j = 0; j < tokens; ++j) {
    T *dk_out = key_row(t.dk, j), *dv_out = key_row(t.dv, j);
    for (int64_t d = 0; d < D; ++d) dk_out[d] = T(dk[j * P + d] * head.scale), dv_out[d] = T(dv[j * P + d]);
  }
}

}  // namespace

void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor q, Tensor k,
                        Tensor v, const AttentionShape& shape, std::span<const int32_t> offsets, Context& ctx) {
  for (const Tensor& x : {q, dq, out, dout})
    check_attention("q, dq, out or dout", x, shape.heads, shape, q.rows, q.dtype);
  for (const Tensor& x : {k, v, dk, dv}) check_attention("k, v, dk or dv", x, shape.kv_heads, shape, q.rows, q.dtype);
  CHECK(lse.rows == q.rows && lse.cols == shape.heads && lse.dtype == DType::f32,
        "lse is ({}, {}), must be ({}, {}) f32", lse.rows, lse.cols, q.rows, shape.heads);
  const int64_t longest = check_offsets(offsets, q.rows);

  const HeadShape head(shape);
  const ArenaScope scope(ctx.scratch);
  const Tensor scratch = ctx.scratch.tensor(ctx.threads, backward_floats(longest, head), DType::f32);
  const Backward tensors{dq, dk, dv, dout, out, lse, q, k, v};
  const int64_t items = static_cast<int64_t>(offsets.size() - 1) * shape.kv_heads;
  dispatch(q.dtype, [&]<class T>() {
  // A thread owns whole items, so dk and dv are summed in one order whatever the number of threads.
#pragma omp parallel for num_threads(ctx.threads) schedule(static, 1)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t s = item / shape.kv_heads;
      backward_item<T>(tensors, offsets[s], offsets[s + 1] - offsets[s], item % shape.kv_heads, head,
                       {scratch.row<float>(omp_get_thread_num())});
    }
  });
}

}  // namespace tangram
