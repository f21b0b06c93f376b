#include "kernels/attention.cuh"
#include "kernels/attention_cudnn.h"
#include "kernels/early_launch.cuh"

// The forward pass, over the packed rows of a training batch and over the pages of a cache alike: FlashAttention-2 (Dao
// 2023, arXiv:2307.08691). Where too few tiles of queries would leave multiprocessors idle, the keys of a tile are cut
// into parts for several blocks, whose results a second kernel puts together (Flash-Decoding).

namespace tangram::cuda {
namespace attention {
namespace {

/// How a block divides its tile: kRows stacked queries over row warps, the keys of a streamed tile over key warps.
template <class Element, int kDim_, int kRows_>
struct Tiling {
  using E = Element;
  static constexpr int kDim = kDim_, kRows = kRows_;
  static constexpr int kM = kRows == 16 || kDim > 128 ? 1 : 2;  // more does not fit the registers
  static constexpr int kRowWarps = kRows / (16 * kM), kKeyWarps = kWarps / kRowWarps;
  static constexpr int kKeys = sizeof(E) == 2 ? 64 : 32;
  static constexpr int kStages = kRows == 16 && sizeof(E) * kDim <= 256 ? 3 : 2;
  static constexpr int kBlocks = sizeof(E) * kDim <= 256 ? 2 : 1;  // on a multiprocessor together
};

template <class T>
struct Shared {
  static constexpr int kStride = kSharedStride<typename T::E, T::kDim>;
  struct Stage {
    typename T::E k[T::kKeys * kStride], v[T::kKeys * kStride];
  };
  alignas(16) typename T::E q[T::kRows * kStride];
  union {
    alignas(16) Stage stages[T::kStages];
    alignas(16) float out[T::kKeyWarps * T::kRows * kSumStride<T::kDim>];  // when all keys are done
  };
  Place rows[T::kRows];
  Place keys[T::kStages + 1][T::kKeys];
  float m[T::kKeyWarps][T::kRows], l[T::kKeyWarps][T::kRows];
};

template <class E>
struct Arguments {
  Heads<E> q, k, v, out;
  Heads<float> lse;                       // data is null where nobody wants it
  Heads<float> partial_out, partial_lse;  // of part 0; with splits > 1
  const int32_t *offsets, *past, *pages;  // past and pages are null for packed rows
  int pages_per_sequence, page_tokens;
  int sequences, tiles, kv_heads, group, head_dim, window, splits;
  float scale;
  bool wide;
};

/// What a block works on: a tile of stacked queries, a head, a range of keys.
struct Work {
  RowTile tile;
  int past, rows, head;         // rows: of the sequence
  int first_query, last_query;  // positions in the sequence
  int first_key, end_key;       // that any of the queries sees
};

template <class T>
__device__ Work find_work(const Arguments<typename T::E>& a) {
  Work w;
  // The last tiles first: they see the most keys, and short ones fill the gaps at the end.
  w.tile = find_tile(a.offsets, a.sequences, a.group, T::kRows, a.tiles - 1 - int(blockIdx.x) / a.kv_heads);
  w.head = int(blockIdx.x) % a.kv_heads;
  if (w.tile.sequence < 0) return w;
  w.past = a.past ? a.past[w.tile.sequence] : 0;
  w.rows = w.tile.tokens * a.group;
  w.first_query = w.past + w.tile.first / a.group;
  w.last_query = w.past + (min(w.tile.first + T::kRows, w.rows) - 1) / a.group;
  w.first_key = max(0, w.first_query - a.window + 1) / T::kKeys * T::kKeys;
  w.end_key = w.last_query + 1;
  return w;
}

template <class E>
__device__ Place key_place(const Arguments<E>& a, const Work& w, int key) {
  if (key >= w.end_key) return {-1, 0};
  if (!a.pages) return {w.tile.first_token + key, w.head};
  const int page = a.pages[int64_t{w.tile.sequence} * a.pages_per_sequence + key / a.page_tokens];
  return {page * a.page_tokens + key % a.page_tokens, w.head};
}

/// The running softmax (Milakov & Gimelshein 2018, arXiv:1805.02867) of a lane's rows, of which four lanes share one.
template <int kM>
struct Softmax {
  float m[kM][2] = {}, l[kM][2] = {};  // the largest score so far; this lane's share of sum exp(scale (s - m))

  __device__ void clear() {
    for (int i = 0; i < 2 * kM; ++i) m[i / 2][i % 2] = -INFINITY, l[i / 2][i % 2] = 0;
  }

  /// From scores to probabilities, s = exp(scale (s - m)), with o and l brought to the new maximum. `scale` is that of
  /// powers of two.
  template <int kN, int kD>
  __device__ void update(Sums<kM, kN>& s, Sums<kM, kD>& o, float scale) {
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      float(&row)[kN][4] = s.v[i / 2];
      const int c = i % 2 * 2;
      float top = m[i / 2][i % 2];
#pragma unroll
      for (int n = 0; n < kN; ++n) top = fmaxf(top, fmaxf(row[n][c], row[n][c + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      const float base = top == -INFINITY ? 0 : top * scale;  // a row may see no key of the first tiles
      const float correction = exp2_fast(m[i / 2][i % 2] * scale - base);
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int j = c; j < c + 2; ++j) sum += row[n][j] = exp2_fast(row[n][j] * scale - base);
      m[i / 2][i % 2] = top;
      l[i / 2][i % 2] = l[i / 2][i % 2] * correction + sum;
#pragma unroll
      for (int n = 0; n < kD; ++n) o.v[i / 2][n][c] *= correction, o.v[i / 2][n][c + 1] *= correction;
    }
  }
};

/// One block's share: the warps' sums over their keys, not yet divided.
template <class T>
struct Attend {
  using E = typename T::E;
  static constexpr int kM = T::kM, kN = T::kKeys / T::kKeyWarps / 8, kStride = Shared<T>::kStride;
  const Arguments<E>& a;
  Shared<T>& shared;
  const Work& work;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int row = warp % T::kRowWarps * 16 * kM, key = warp / T::kRowWarps * 8 * kN;  // the warp's first in a tile
  Sums<kM, T::kDim / 8> o = {};
  Softmax<kM> softmax = {};

  __device__ int first_key(int tile) const { return work.first_key + tile * T::kKeys; }

  __device__ void load(int tile) {
    typename Shared<T>::Stage& stage = shared.stages[tile % T::kStages];
    const Place* places = shared.keys[tile % (T::kStages + 1)];
    load_rows<T::kDim, T::kKeys>(stage.k, a.k, places, a.head_dim, a.wide);
    load_rows<T::kDim, T::kKeys>(stage.v, a.v, places, a.head_dim, a.wide);
  }

  /// -inf where a query does not see a key.
  __device__ void mask(Sums<kM, kN>& s, int first) const {
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      const int r = min(work.tile.first + row + 8 * i + lane / 4, work.rows - 1);
      const int query = work.past + r / a.group;
#pragma unroll
      for (int j = 0; j < 2 * kN; ++j) {
        const int k = first + j / 2 * 8 + lane % 4 * 2 + j % 2;
        if (!sees(query, k, a.window)) s.v[i / 2][j / 2][i % 2 * 2 + j % 2] = -INFINITY;
      }
    }
  }

  __device__ void step(int tile) {
    const typename Shared<T>::Stage& stage = shared.stages[tile % T::kStages];
    const int first = first_key(tile);
    Sums<kM, kN> s;
    add_product_transposed<T::kDim>(s, shared.q + row * kStride, stage.k + key * kStride);
    if (first + T::kKeys - 1 > work.first_query || first <= work.last_query - a.window) mask(s, first + key);
    softmax.update(s, o, a.scale * kLog2e);
    add_product<T::kDim>(o, s, stage.v + key * kStride);
  }

  /// Tiles [begin, end) of keys.
  __device__ void run(int begin, int end) {
    softmax.clear();
    note_rows<T::kRows>(shared.rows, work.tile.first_token, work.tile.first, work.rows, work.head, a.group);
    __syncthreads();
    load_rows<T::kDim, T::kRows>(shared.q, a.q, shared.rows, a.head_dim, a.wide);
    const int i = threadIdx.x;
    stream<T::kStages>(
        begin, end,
        [&](int t) {
          return i < T::kKeys ? key_place(a, work, first_key(t) + i) : Place{-1, 0};
        },
        [&](int t, Place place) {
          if (i < T::kKeys) shared.keys[t % (T::kStages + 1)][i] = place;
        },
        [&](int t) { load(t); }, [&](int t) { step(t); });
  }

  /// Divides by the whole sum of each row, over all key warps, and writes out and lse.
  __device__ void finish() {
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      float& l = softmax.l[i / 2][i % 2];
      l += __shfl_xor_sync(kAllLanes, l, 1);
      l += __shfl_xor_sync(kAllLanes, l, 2);
      const int r = row + 8 * i + lane / 4;
      if (lane % 4 == 0)
        shared.m[warp / T::kRowWarps][r] = softmax.m[i / 2][i % 2], shared.l[warp / T::kRowWarps][r] = l;
    }
    __syncthreads();
    const float scale = a.scale * kLog2e;
    const Heads<float> lse{a.partial_lse.data + blockIdx.y, a.partial_lse.row_stride, a.partial_lse.head_stride};
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) {
      const int r = row + 8 * i + lane / 4;
      float m = -INFINITY, l = 0;
      for (int w = 0; w < T::kKeyWarps; ++w) m = fmaxf(m, shared.m[w][r]);
      const float base = m == -INFINITY ? 0 : m * scale;
      for (int w = 0; w < T::kKeyWarps; ++w) l += shared.l[w][r] * exp2_fast(shared.m[w][r] * scale - base);
      const float factor = l == 0 ? 0 : exp2_fast(softmax.m[i / 2][i % 2] * scale - base) / l;
#pragma unroll
      for (int j = 0; j < T::kDim / 4; ++j) o.v[i / 2][j / 2][i % 2 * 2 + j % 2] *= factor;
      const Place place = shared.rows[r];
      if (warp >= T::kRowWarps || lane % 4 != 0 || place.row < 0) continue;
      if (a.splits > 1)
        *lse.at(place) = m * scale + log2f(l);
      else if (a.lse.data)
        *a.lse.at(place) = m * a.scale + logf(l);
    }
    put_sums<T::kDim>(shared.out + (warp / T::kRowWarps * T::kRows + row) * kSumStride<T::kDim>, o);
    __syncthreads();
    if (a.splits > 1) {
      const Heads<float> out{a.partial_out.data + blockIdx.y * int64_t{a.head_dim}, a.partial_out.row_stride,
                             a.partial_out.head_stride};
      store_rows<T::kDim, T::kRows, T::kKeyWarps>(out, shared.out, 1, shared.rows, 0, a.head_dim, a.head_dim % 4 == 0);
    } else {
      store_rows<T::kDim, T::kRows, T::kKeyWarps>(a.out, shared.out, 1, shared.rows, 0, a.head_dim, a.wide);
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, T::kBlocks)
    attend_kernel(const __grid_constant__ Arguments<typename T::E> a) {
  let_next_start();
  wait_for_previous();
  const Work work = find_work<T>(a);
  if (work.tile.sequence < 0) return;
  const int tiles = (work.end_key - work.first_key + T::kKeys - 1) / T::kKeys, part = int(blockIdx.y);
  Attend<T> attend{a, *dynamic_shared<Shared<T>>(), work};
  attend.run(int(int64_t{tiles} * part / a.splits), int(int64_t{tiles} * (part + 1) / a.splits));
  attend.finish();
}

/// out = sum over parts of their out, weighted by their share of the whole sum. A block for every row and head.
template <class E>
__global__ void combine_kernel(Heads<E> out, const float* partial_out, const float* partial_lse, int heads, int splits,
                               int head_dim) {
  let_next_start();
  wait_for_previous();
  const int64_t item = blockIdx.x;
  const float* lse = partial_lse + item * splits;
  const float* parts = partial_out + item * splits * head_dim;
  float top = -INFINITY, total = 0;
  for (int s = 0; s < splits; ++s) top = fmaxf(top, lse[s]);
  for (int s = 0; s < splits; ++s) total += exp2_fast(lse[s] - top);
  E* to = out.at({int(item / heads), int(item % heads)});
  for (int d = threadIdx.x; d < head_dim; d += kThreads) {
    float sum = 0;
#pragma unroll 8
    for (int s = 0; s < splits; ++s) sum += exp2_fast(lse[s] - top) * parts[int64_t{s} * head_dim + d];
    to[d] = from_float<E>(sum / total);
  }
}

template <class E>
void attend(Arguments<E> a, int64_t tokens, int64_t tile_rows, const Context& ctx) {
  const auto with = [&]<class T>() {
    a.tiles = int(most_tiles(tokens, a.sequences, a.group, T::kRows));
    launch_early(attend_kernel<T>, dim3(unsigned(a.tiles * a.kv_heads), unsigned(a.splits)), kThreads,
                 sizeof(Shared<T>), ctx, a);
  };
  dispatch_dim(a.head_dim, [&]<int kDim>() {
    constexpr int kMost = sizeof(E) == 2 && kDim <= 128 ? 128 : 64;
    if (tile_rows == 16)
      with.template operator()<Tiling<E, kDim, 16>>();
    else if (tile_rows == 64)
      with.template operator()<Tiling<E, kDim, 64>>();
    else
      with.template operator()<Tiling<E, kDim, kMost>>();
  });
}

/// The arguments that packed rows and pages have in common.
template <class E>
Arguments<E> arguments(Tensor out, Tensor q, Tensor k, Tensor v, const AttentionShape& shape, bool wide) {
  const int64_t D = shape.head_dim;
  Arguments<E> a{};
  a.q = heads_of<E>(q, D), a.k = heads_of<E>(k, D), a.v = heads_of<E>(v, D), a.out = heads_of<E>(out, D);
  a.kv_heads = int(shape.kv_heads), a.group = int(shape.heads / shape.kv_heads), a.head_dim = int(D);
  a.window = int(std::min<int64_t>(shape.window, std::numeric_limits<int>::max()));
  a.scale = float(1 / std::sqrt(double(D))), a.splits = 1;
  a.wide = wide;
  return a;
}

}  // namespace
}  // namespace attention

void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, const AttentionShape& shape,
                       const DeviceIndices& batch, [[maybe_unused]] const CudnnAttention* cudnn, Context& ctx) {
  if (q.rows == 0) return;
#ifndef TANGRAM_CUDA_EMULATOR
  if constexpr (kCudnnBuilt)
    if (cudnn && cudnn_attention_forward(out, lse, q, k, v, shape, batch, *cudnn, ctx)) return;
#endif
  dispatch(q.dtype, [&]<class T>() {
    using namespace attention;
    auto a = arguments<Element<T>>(out, q, k, v, shape, wide<T>(shape, {out, q, k, v}));
    a.lse = {lse.as<float>(), lse.stride, 1};
    a.offsets = batch.offsets, a.sequences = int(batch.sequences);
    attend(a, q.rows, 128, ctx);
  });
}

void attention_cached(Tensor out, Tensor q, const KvPages& cache, const PageTable& table, const AttentionShape& shape,
                      const DeviceIndices& batch, const CachedParts& parts, Context& ctx) {
  if (q.rows == 0) return;
  dispatch(q.dtype, [&]<class T>() {
    using namespace attention;
    using E = Element<T>;
    const Tensor k = cache.keys, v = cache.values;
    auto a = arguments<E>(out, q, k, v, shape, wide<T>(shape, {out, q, k, v}));
    a.offsets = batch.offsets, a.past = batch.past, a.pages = batch.pages, a.sequences = int(batch.sequences);
    a.pages_per_sequence = int(table.pages_per_sequence), a.page_tokens = int(cache.page_tokens);
    a.splits = int(parts.splits);
    auto *partial_out = parts.out.as<float>(), *partial_lse = parts.lse.as<float>();
    a.partial_out = {partial_out, shape.heads * parts.splits * shape.head_dim, parts.splits * shape.head_dim};
    a.partial_lse = {partial_lse, shape.heads * parts.splits, parts.splits};
    attend(a, q.rows, parts.tile_rows, ctx);
    if (parts.splits > 1)
      launch_early(combine_kernel<E>, unsigned(q.rows * shape.heads), kThreads, 0, ctx, a.out, partial_out, partial_lse,
                   int(shape.heads), a.splits, a.head_dim);
  });
}

}  // namespace tangram::cuda
