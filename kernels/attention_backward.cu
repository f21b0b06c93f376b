#include "kernels/attention.cuh"
#include "kernels/attention_cudnn.h"

// The backward pass without atomics: one kernel owns queries and sums dq over keys, another owns keys and sums dk and
// dv over queries, heads of the group included, both in a fixed order. Each computes p and ds again.

namespace tangram::cuda {
namespace attention {
namespace {

constexpr int kStages = 2;

template <class E>
struct Arguments {
  Heads<E> q, k, v, dout, dq, dk, dv;
  Heads<float> lse, delta;
  const int32_t* offsets;
  int sequences, tiles, kv_heads, group, head_dim, window;
  float scale;
  bool wide;
};

// --- dq ---

template <class Element, int kDim_>
struct QueryTiling {
  using E = Element;
  static constexpr int kDim = kDim_;
  static constexpr int kRows = sizeof(E) * kDim > 512 ? 16 : 64;
  static constexpr int kM = kRows == 16 || kDim > 128 ? 1 : 2;
  static constexpr int kRowWarps = kRows / (16 * kM), kKeyWarps = kWarps / kRowWarps;
  static constexpr int kKeys = sizeof(E) == 2 ? 64 : 32;
  static constexpr int kBlocks = sizeof(E) * kDim <= 256 ? 2 : 1;
};

template <class T>
struct QueryShared {
  static constexpr int kStride = kSharedStride<typename T::E, T::kDim>;
  struct Stage {
    typename T::E k[T::kKeys * kStride], v[T::kKeys * kStride];
  };
  alignas(16) typename T::E q[T::kRows * kStride];
  alignas(16) typename T::E dout[T::kRows * kStride];
  union {
    alignas(16) Stage stages[kStages];
    alignas(16) float out[T::kKeyWarps * T::kRows * kSumStride<T::kDim>];  // when all keys are done
  };
  Place rows[T::kRows];
  Place keys[kStages + 1][T::kKeys];
};

template <class T>
struct QueryGradient {
  using E = typename T::E;
  static constexpr int kM = T::kM, kN = T::kKeys / T::kKeyWarps / 8, kStride = QueryShared<T>::kStride;
  const Arguments<E>& a;
  QueryShared<T>& shared;
  const RowTile& tile;
  const int head;
  const int rows = tile.tokens * a.group;
  const int first_query = tile.first / a.group, last_query = (min(tile.first + T::kRows, rows) - 1) / a.group;
  const int first_key = max(0, first_query - a.window + 1) / T::kKeys * T::kKeys;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int row = warp % T::kRowWarps * 16 * kM, key = warp / T::kRowWarps * 8 * kN;  // the warp's first in a tile
  Sums<kM, T::kDim / 8> dq = {};
  float lse[kM][2] = {}, delta[kM][2] = {};  // lse of base 2

  __device__ void step(int t) {
    const typename QueryShared<T>::Stage& stage = shared.stages[t % kStages];
    const int first = first_key + t * T::kKeys;
    Sums<kM, kN> s, dp;
    add_product_transposed<T::kDim>(s, shared.q + row * kStride, stage.k + key * kStride);
    add_product_transposed<T::kDim>(dp, shared.dout + row * kStride, stage.v + key * kStride);
    const bool all = first + T::kKeys - 1 <= first_query && first > last_query - a.window;
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      const int query = min(tile.first + row + 8 * i + lane / 4, rows - 1) / a.group;
#pragma unroll
      for (int j = 0; j < 2 * kN; ++j) {
        float& x = s.v[i / 2][j / 2][i % 2 * 2 + j % 2];
        const float p = exp2_fast(x * a.scale * kLog2e - lse[i / 2][i % 2]);
        const bool seen = all || sees(query, first + key + j / 2 * 8 + lane % 4 * 2 + j % 2, a.window);
        x = seen ? p * (dp.v[i / 2][j / 2][i % 2 * 2 + j % 2] - delta[i / 2][i % 2]) : 0;
      }
    }
    add_product<T::kDim>(dq, s, stage.k + key * kStride);
  }

  __device__ void run() {
    note_rows<T::kRows>(shared.rows, tile.first_token, tile.first, rows, head, a.group);
    __syncthreads();
    load_rows<T::kDim, T::kRows>(shared.q, a.q, shared.rows, a.head_dim, a.wide);
    load_rows<T::kDim, T::kRows>(shared.dout, a.dout, shared.rows, a.head_dim, a.wide);
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      const Place place = shared.rows[row + 8 * i + lane / 4];
      lse[i / 2][i % 2] = place.row < 0 ? INFINITY : *a.lse.at(place) * kLog2e;
      delta[i / 2][i % 2] = place.row < 0 ? 0 : *a.delta.at(place);
    }
    const int i = threadIdx.x;
    stream<kStages>(
        0, (last_query - first_key) / T::kKeys + 1,
        [&](int t) {
          const int k = first_key + t * T::kKeys + i;
          return k <= last_query ? Place{tile.first_token + k, head} : Place{-1, 0};
        },
        [&](int t, Place place) {
          if (i < T::kKeys) shared.keys[t % (kStages + 1)][i] = place;
        },
        [&](int t) {
          const Place* places = shared.keys[t % (kStages + 1)];
          load_rows<T::kDim, T::kKeys>(shared.stages[t % kStages].k, a.k, places, a.head_dim, a.wide);
          load_rows<T::kDim, T::kKeys>(shared.stages[t % kStages].v, a.v, places, a.head_dim, a.wide);
        },
        [&](int t) { step(t); });
    put_sums<T::kDim>(shared.out + (warp / T::kRowWarps * T::kRows + row) * kSumStride<T::kDim>, dq);
    __syncthreads();
    store_rows<T::kDim, T::kRows, T::kKeyWarps>(a.dq, shared.out, a.scale, shared.rows, 0, a.head_dim, a.wide);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, T::kBlocks) dq_kernel(const __grid_constant__ Arguments<typename T::E> a) {
  // The last tiles first: they see the most keys.
  const RowTile tile = find_tile(a.offsets, a.sequences, a.group, T::kRows, a.tiles - 1 - int(blockIdx.x) / a.kv_heads);
  if (tile.sequence < 0) return;
  QueryGradient<T>{a, *dynamic_shared<QueryShared<T>>(), tile, int(blockIdx.x) % a.kv_heads}.run();
}

// --- dk and dv ---

template <class Element, int kDim_>
struct KeyTiling {
  using E = Element;
  static constexpr int kDim = kDim_;
  static constexpr int kRows = 64;  // keys of the block, 16 a warp
  static constexpr int kColumns =
      kDim < 128 ? kDim : 128;  // of dk and dv that a block sums: more do not fit the registers
  static constexpr int kQueries = sizeof(E) == 2 ? 64 : kDim <= 128 ? 32 : 16;  // stacked, of a streamed tile
  static constexpr int kBlocks = sizeof(E) * kDim <= 256 ? 2 : 1;
};

/// What belongs to a streamed query.
struct Query {
  Place place;
  int position;
  float lse, delta;  // lse of base 2
};

template <class T>
struct KeyShared {
  static constexpr int kStride = kSharedStride<typename T::E, T::kDim>;
  struct Stage {
    typename T::E q[T::kQueries * kStride], dout[T::kQueries * kStride];
  };
  struct Sums {
    float dk[T::kRows * kSumStride<T::kColumns>], dv[T::kRows * kSumStride<T::kColumns>];
  };
  alignas(16) typename T::E k[T::kRows * kStride];
  alignas(16) typename T::E v[T::kRows * kStride];
  union {
    alignas(16) Stage stages[kStages];
    alignas(16) Sums sums;  // when all queries are done
  };
  Place keys[T::kRows];
  Place queries[kStages + 1][T::kQueries];
  int position[kStages + 1][T::kQueries];
  float lse[kStages + 1][T::kQueries], delta[kStages + 1][T::kQueries];
};

template <class T>
struct KeyGradient {
  using E = typename T::E;
  static constexpr int kN = T::kQueries / 8, kStride = KeyShared<T>::kStride;
  const Arguments<E>& a;
  KeyShared<T>& shared;
  const RowTile& tile;
  const int head;
  const int first_column = int(blockIdx.y) * T::kColumns;
  const int last_key = min(tile.first + T::kRows, tile.tokens) - 1;
  const int end_query = a.window < tile.tokens ? min(tile.tokens, last_key + a.window) : tile.tokens;
  const int first_row = tile.first * a.group, end_row = end_query * a.group;  // of the stacked queries that see a key
  const int lane = threadIdx.x % kWarp, row = int(threadIdx.x) / kWarp * 16;  // the warp's first key
  Sums<1, T::kColumns / 8> dk = {}, dv = {};

  __device__ Query look(int t) const {
    const int r = first_row + t * T::kQueries + int(threadIdx.x);
    if (int(threadIdx.x) >= T::kQueries || r >= end_row) return {{-1, 0}, 0, INFINITY, 0};
    const Place place{tile.first_token + r / a.group, head * a.group + r % a.group};
    return {place, r / a.group, *a.lse.at(place) * kLog2e, *a.delta.at(place)};
  }
  __device__ void keep(int t, const Query& query) {
    const int i = threadIdx.x, slot = t % (kStages + 1);
    if (i >= T::kQueries) return;
    shared.queries[slot][i] = query.place, shared.position[slot][i] = query.position;
    shared.lse[slot][i] = query.lse, shared.delta[slot][i] = query.delta;
  }

  /// From s and dp, transposed, to p and ds.
  __device__ void differentiate(Sums<1, kN>& s, Sums<1, kN>& dp, int t) const {
    const int slot = t % (kStages + 1), first = (first_row + t * T::kQueries) / a.group;
    const int last = (first_row + (t + 1) * T::kQueries - 1) / a.group;
    const bool all = last_key <= first && tile.first > last - a.window;
#pragma unroll
    for (int j = 0; j < 2 * kN; ++j) {
      const int column = j / 2 * 8 + lane % 4 * 2 + j % 2;
      const float lse = shared.lse[slot][column], delta = shared.delta[slot][column];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float &x = s.v[0][j / 2][i * 2 + j % 2], &y = dp.v[0][j / 2][i * 2 + j % 2];
        const bool seen = all || sees(shared.position[slot][column], tile.first + row + 8 * i + lane / 4, a.window);
        x = seen ? exp2_fast(x * a.scale * kLog2e - lse) : 0;
        y = x * (y - delta);
      }
    }
  }

  __device__ void step(int t) {
    const typename KeyShared<T>::Stage& stage = shared.stages[t % kStages];
    Sums<1, kN> s, dp;
    add_product_transposed<T::kDim>(s, shared.k + row * kStride, stage.q);
    add_product_transposed<T::kDim>(dp, shared.v + row * kStride, stage.dout);
    differentiate(s, dp, t);
    add_product<T::kDim>(dv, s, stage.dout + first_column);
    add_product<T::kDim>(dk, dp, stage.q + first_column);
  }

  __device__ void run() {
    note_rows<T::kRows>(shared.keys, tile.first_token, tile.first, tile.tokens, head, 1);
    __syncthreads();
    load_rows<T::kDim, T::kRows>(shared.k, a.k, shared.keys, a.head_dim, a.wide);
    load_rows<T::kDim, T::kRows>(shared.v, a.v, shared.keys, a.head_dim, a.wide);
    stream<kStages>(
        0, (end_row - first_row + T::kQueries - 1) / T::kQueries, [&](int t) { return look(t); },
        [&](int t, const Query& query) { keep(t, query); },
        [&](int t) {
          const Place* places = shared.queries[t % (kStages + 1)];
          load_rows<T::kDim, T::kQueries>(shared.stages[t % kStages].q, a.q, places, a.head_dim, a.wide);
          load_rows<T::kDim, T::kQueries>(shared.stages[t % kStages].dout, a.dout, places, a.head_dim, a.wide);
        },
        [&](int t) { step(t); });
    put_sums<T::kColumns>(shared.sums.dk + row * kSumStride<T::kColumns>, dk);
    put_sums<T::kColumns>(shared.sums.dv + row * kSumStride<T::kColumns>, dv);
    __syncthreads();
    store_rows<T::kColumns, T::kRows, 1>(a.dk, shared.sums.dk, a.scale, shared.keys, first_column, a.head_dim, a.wide);
    store_rows<T::kColumns, T::kRows, 1>(a.dv, shared.sums.dv, 1, shared.keys, first_column, a.head_dim, a.wide);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, T::kBlocks) dkv_kernel(const __grid_constant__ Arguments<typename T::E> a) {
  // The first tiles first: they are seen by the most queries.
  const RowTile tile = find_tile(a.offsets, a.sequences, 1, T::kRows, int(blockIdx.x) / a.kv_heads);
  if (tile.sequence < 0) return;
  KeyGradient<T>{a, *dynamic_shared<KeyShared<T>>(), tile, int(blockIdx.x) % a.kv_heads}.run();
}

// --- delta ---

/// delta = dout . out, a warp for each row and head.
template <class E, int kPack>
__global__ void delta_kernel(Heads<float> delta, Heads<E> dout, Heads<E> out, int64_t items, int heads, int head_dim) {
  using P = Pack<E, kPack>;
  const int64_t item = blockIdx.x * int64_t{kWarps} + threadIdx.x / kWarp;
  if (item >= items) return;
  const Place place{int(item / heads), int(item % heads)};
  float sum = 0;
  for (int c = threadIdx.x % kWarp * kPack; c < head_dim; c += kWarp * kPack) {
    const P x = *reinterpret_cast<const P*>(dout.at(place) + c), y = *reinterpret_cast<const P*>(out.at(place) + c);
    for (int i = 0; i < kPack; ++i) sum += to_float(x.v[i]) * to_float(y.v[i]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) *delta.at(place) = sum;
}

}  // namespace
}  // namespace attention

void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dout, Tensor out, Tensor lse, Tensor delta, Tensor q,
                        Tensor k, Tensor v, const AttentionShape& shape, const DeviceIndices& batch,
                        [[maybe_unused]] const CudnnAttention* cudnn, Context& ctx) {
  if (q.rows == 0) return;
#ifndef TANGRAM_CUDA_EMULATOR
  if constexpr (kCudnnBuilt)
    if (cudnn && cudnn_attention_backward(dq, dk, dv, dout, out, lse, q, k, v, shape, batch, *cudnn, ctx)) return;
#endif
  dispatch(q.dtype, [&]<class T>() {
    using namespace attention;
    using E = Element<T>;
    const int64_t D = shape.head_dim, items = q.rows * shape.heads;
    const auto heads = [D](Tensor x) { return heads_of<E>(x, D); };
    Arguments<E> a{};
    a.q = heads(q), a.k = heads(k), a.v = heads(v), a.dout = heads(dout);
    a.dq = heads(dq), a.dk = heads(dk), a.dv = heads(dv);
    a.lse = {lse.as<float>(), lse.stride, 1}, a.delta = {delta.as<float>(), delta.stride, 1};
    a.offsets = batch.offsets, a.sequences = int(batch.sequences);
    a.kv_heads = int(shape.kv_heads), a.group = int(shape.heads / shape.kv_heads), a.head_dim = int(D);
    a.window = int(std::min<int64_t>(shape.window, std::numeric_limits<int>::max()));
    a.scale = float(1 / std::sqrt(double(D)));
    a.wide = wide<T>(shape, {q, k, v, dout, dq, dk, dv});

    const auto compute_delta = [&]<int kPack>() {
      launch(delta_kernel<E, kPack>, unsigned(ceil_div(items, kWarps)), kThreads, ctx, a.delta, a.dout, heads(out),
             items, int(shape.heads), a.head_dim);
    };
    if (wide<T>(shape, {dout, out}))
      compute_delta.template operator()<16 / sizeof(T)>();
    else
      compute_delta.template operator()<1>();
    dispatch_dim(D, [&]<int kDim>() {
      using Queries = QueryTiling<E, kDim>;
      using Keys = KeyTiling<E, kDim>;
      a.tiles = int(most_tiles(q.rows, a.sequences, a.group, Queries::kRows));
      launch_shared(dq_kernel<Queries>, unsigned(a.tiles * a.kv_heads), kThreads, sizeof(QueryShared<Queries>), ctx, a);
      a.tiles = int(most_tiles(q.rows, a.sequences, 1, Keys::kRows));
      launch_shared(dkv_kernel<Keys>, dim3(unsigned(a.tiles * a.kv_heads), kDim / Keys::kColumns), kThreads,
                    sizeof(KeyShared<Keys>), ctx, a);
    });
  });
}

}  // namespace tangram::cuda
