#pragma once
#include "kernels/attention.h"
#include "kernels/mma.cuh"

// What the attention kernels share. The query heads of a group are stacked: stacked row i * group + g of a sequence is
// query head g of the group at token i, so one product serves the whole group and keys are read once.
//
// A block keeps a tile of rows ("its own": queries, or keys in the backward pass), and the rows that meet them stream
// through shared memory in tiles, a stage or two ahead of the products. bf16 multiplies on the tensor cores; f32 does
// so lane by lane, with the sums in the same lanes, so that all else is one code.

namespace tangram::cuda::attention {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;  // of a block
constexpr float kLog2e = 1.4426950408889634f;

/// Elements from one row in shared memory to the next: 16 bytes more than a row, so that the same 16 bytes of eight
/// rows lie in different banks.
template <class E, int kDim>
constexpr int kSharedStride = kDim + 16 / int(sizeof(E));
/// Floats from one row of sums in shared memory to the next: what eight lanes of four rows write lies in different
/// banks.
template <int kDim>
constexpr int kSumStride = kDim + 8;

/// Which row and head of a tensor; row -1 is none: zeros where it is read, and never written.
struct alignas(8) Place {
  int row, head;
};

/// A tensor of heads in global memory.
template <class E>
struct Heads {
  E* data;
  int64_t row_stride, head_stride;
  __device__ E* at(Place p) const { return data + p.row * row_stride + p.head * head_stride; }
};

template <class E>
Heads<E> heads_of(Tensor x, int64_t head_dim) {
  return {static_cast<E*>(x.data), x.stride, head_dim};
}

/// Whether rows of heads can be read and written 16 bytes at a time.
template <class T>
bool wide(const AttentionShape& shape, std::initializer_list<Tensor> tensors) {
  return shape.head_dim % (16 / int64_t{sizeof(T)}) == 0 && pack_size<T>(tensors) > 1;
}

/// Calls f.operator()<kDim>() with the channels that rows have in shared memory.
template <class F>
void dispatch_dim(int64_t head_dim, F&& f) {
  if (head_dim <= 64)
    f.template operator()<64>();
  else if (head_dim <= 128)
    f.template operator()<128>();
  else
    f.template operator()<256>();
}

/// 16 kM rows of 8 kN sums in the registers of a warp. With g = lane / 4 and c = lane % 4 * 2, a lane holds in v[m][n]
/// elements (g, c), (g, c + 1), (g + 8, c), (g + 8, c + 1) of tile (m, n).
template <int kM, int kN>
struct Sums {
  float v[kM][kN][4] = {};
};

/// s += a b^T over kDim channels: a has 16 kM rows, b 8 kN, in shared memory.
template <int kDim, int kM, int kN>
__device__ void add_product_transposed(Sums<kM, kN>& s, const __nv_bfloat16* a, const __nv_bfloat16* b) {
  constexpr int kStride = kSharedStride<__nv_bfloat16, kDim>;
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    uint32_t fa[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_a(fa[m], a + 16 * m * kStride + k, kStride);
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t fb[4];
      load_b_transposed(fb, b + 8 * n * kStride + k, kStride);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_add(s.v[m][n], fa[m], fb[0], fb[1]);
        multiply_add(s.v[m][n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}

template <int kDim, int kM, int kN>
__device__ void add_product_transposed(Sums<kM, kN>& s, const float* a, const float* b) {
  constexpr int kStride = kSharedStride<float, kDim>;
  const int g = threadIdx.x % kWarp / 4, c = threadIdx.x % 4 * 2;
  const auto four = [](const float* p) { return *reinterpret_cast<const float4*>(p); };
#pragma unroll 4
  for (int k = 0; k < kDim; k += 4) {
    float4 fa[kM][2];
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) fa[i / 2][i % 2] = four(a + (8 * i + g) * kStride + k);
#pragma unroll
    for (int j = 0; j < 2 * kN; ++j) {
      const float4 y = four(b + (j / 2 * 8 + c + j % 2) * kStride + k);
#pragma unroll
      for (int i = 0; i < 2 * kM; ++i) {
        const float4 x = fa[i / 2][i % 2];
        float& sum = s.v[i / 2][j / 2][i % 2 * 2 + j % 2];
        sum += x.x * y.x, sum += x.y * y.y, sum += x.z * y.z, sum += x.w * y.w;
      }
    }
  }
}

/// o += p b: b has 8 kK rows of kDim channels in shared memory and is given from the first of 8 kN channels on. In
/// bf16, p is rounded to it.
template <int kDim, int kM, int kN, int kK>
__device__ void add_product(Sums<kM, kN>& o, const Sums<kM, kK>& p, const __nv_bfloat16* b) {
  constexpr int kStride = kSharedStride<__nv_bfloat16, kDim>;
#pragma unroll
  for (int k = 0; k < kK; k += 2) {
    uint32_t fa[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* pair = p.v[m][k + i / 2] + i % 2 * 2;
        fa[m][i] = pack_bf16(pair[0], pair[1]);
      }
#pragma unroll
    for (int n = 0; n < kN; n += 2) {
      uint32_t fb[4];
      load_b(fb, b + 8 * k * kStride + 8 * n, kStride);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_add(o.v[m][n], fa[m], fb[0], fb[1]);
        multiply_add(o.v[m][n + 1], fa[m], fb[2], fb[3]);
      }
    }
  }
}

template <int kDim, int kM, int kN, int kK>
__device__ void add_product(Sums<kM, kN>& o, const Sums<kM, kK>& p, const float* b) {
  constexpr int kStride = kSharedStride<float, kDim>;
  const int c = threadIdx.x % 4 * 2;
#pragma unroll
  for (int k = 0; k < 8 * kK; ++k) {
    float x[2 * kM];
#pragma unroll
    for (int i = 0; i < 2 * kM; ++i) x[i] = __shfl_sync(kAllLanes, p.v[i / 2][k / 8][i % 2 * 2 + k % 2], k % 8 / 2, 4);
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const float2 y = *reinterpret_cast<const float2*>(b + k * kStride + 8 * n + c);
#pragma unroll
      for (int i = 0; i < 2 * kM; ++i) {
        o.v[i / 2][n][i % 2 * 2] += x[i] * y.x;
        o.v[i / 2][n][i % 2 * 2 + 1] += x[i] * y.y;
      }
    }
  }
}

/// Starts copying the rows at `places` to shared memory, with zeros from channel head_dim on. `wide`: rows can be read
/// 16 bytes at a time.
template <int kDim, int kRows, class E>
__device__ void load_rows(E* to, const Heads<E>& from, const Place* places, int head_dim, bool wide) {
  constexpr int kPack = 16 / int(sizeof(E)), kPacks = kDim / kPack;
  static_assert(kThreads % kPacks == 0);
  const int c = threadIdx.x % kPacks * kPack;
#pragma unroll 4
  for (int r = threadIdx.x / kPacks; r < kRows; r += kThreads / kPacks) {
    const Place place = places[r];
    const bool zeros = place.row < 0 || c >= head_dim;
    const E* source = zeros ? from.data : from.at(place) + c;
    E* target = to + r * kSharedStride<E, kDim> + c;
    if (wide) {
      start_copy16(target, source, zeros);
    } else {
      for (int i = 0; i < kPack; ++i) target[i] = zeros || c + i >= head_dim ? from_float<E>(0) : source[i];
    }
  }
}

/// Calls step(t) for every tile t in [begin, end) in order, while the next kStages - 1 are on their way to shared
/// memory. keep(t, look(t)) notes what load(t), which starts the copies of a tile, has to know: look reads global
/// memory a tile's time before keep writes it to slot t % (kStages + 1).
template <int kStages, class Look, class Keep, class Load, class Step>
__device__ void stream(int begin, int end, Look look, Keep keep, Load load, Step step) {
  for (int t = begin; t < begin + kStages; ++t) keep(t, look(t));
  __syncthreads();
  for (int t = begin; t < begin + kStages - 1; ++t) {
    if (t < end) load(t);
    end_copy_group();
  }
  for (int t = begin; t < end; ++t) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // tile t is there, and nobody reads tile t - 1 any more
    if (t + kStages - 1 < end) load(t + kStages - 1);
    end_copy_group();
    const auto ahead = look(t + kStages);
    step(t);
    keep(t + kStages, ahead);
  }
  __syncthreads();
}

/// Notes where rows [first, first + kRows) of the `rows` that a sequence's queries stack are.
template <int kRows>
__device__ void note_rows(Place* places, int first_token, int first, int rows, int head, int group) {
  for (int i = threadIdx.x; i < kRows; i += kThreads)
    places[i] =
        first + i < rows ? Place{first_token + (first + i) / group, head * group + (first + i) % group} : Place{-1, 0};
}

__device__ inline bool sees(int query, int key, int window) { return key <= query && key > query - window; }

/// Writes sums to shared memory: `out` is the place of the warp's first row.
template <int kDim, int kM, int kN>
__device__ void put_sums(float* out, const Sums<kM, kN>& o) {
  const int g = threadIdx.x % kWarp / 4, c = threadIdx.x % 4 * 2;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i)
        *reinterpret_cast<float2*>(out + (16 * m + 8 * i + g) * kSumStride<kDim> + 8 * n + c) =
            make_float2(o.v[m][n][2 * i], o.v[m][n][2 * i + 1]);
}

/// Writes channels [first, first + kDim) of rows to global memory, each `scale` times the sum over kParts in order.
template <int kDim, int kRows, int kParts, class E>
__device__ void store_rows(const Heads<E>& to, const float* sums, float scale, const Place* places, int first,
                           int head_dim, bool wide) {
  constexpr int kPack = 16 / int(sizeof(E)), kPacks = kDim / kPack;
  for (int i = threadIdx.x; i < kRows * kPacks; i += kThreads) {
    const int r = i / kPacks, c = i % kPacks * kPack;
    const Place place = places[r];
    if (place.row < 0 || first + c >= head_dim) continue;
    Pack<E, kPack> pack;
    for (int j = 0; j < kPack; ++j) {
      float sum = 0;
      for (int part = 0; part < kParts; ++part) sum += sums[(part * kRows + r) * kSumStride<kDim> + c + j];
      pack.v[j] = from_float<E>(sum * scale);
    }
    E* target = to.at(place) + first + c;
    if (wide)
      *reinterpret_cast<Pack<E, kPack>*>(target) = pack;
    else
      for (int j = 0; j < kPack && first + c + j < head_dim; ++j) target[j] = pack.v[j];
  }
}

/// A tile of the rows of a sequence. A token has `per_token` rows.
struct RowTile {
  int sequence;             // -1: there is no such tile
  int first_token, tokens;  // of the sequence in the batch
  int first;                // row of the tile in the sequence
};

/// The most tiles that so many tokens in so many sequences make.
constexpr int64_t most_tiles(int64_t tokens, int64_t sequences, int64_t per_token, int64_t rows) {
  return tokens * per_token / rows + std::min(sequences, tokens);
}

/// Tile `index` of a batch; all lanes of a warp call it together.
__device__ inline RowTile find_tile(const int32_t* offsets, int sequences, int per_token, int rows, int index) {
  const int lane = threadIdx.x % kWarp;
  for (int first = 0; first < sequences; first += kWarp) {
    const int s = first + lane;
    const int begin = s < sequences ? offsets[s] : 0, end = s < sequences ? offsets[s + 1] : 0;
    int upto = ((end - begin) * per_token + rows - 1) / rows;  // tiles of the sequences before the next lane's
    const int own = upto;
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = __shfl_up_sync(kAllLanes, upto, step);
      if (lane >= step) upto += before;
    }
    const unsigned beyond = __ballot_sync(kAllLanes, index < upto);
    if (beyond) {
      const int at = __ffs(int(beyond)) - 1;
      const auto of_lane = [at](int x) { return __shfl_sync(kAllLanes, x, at); };
      const int skipped = of_lane(upto - own);
      const int first_token = of_lane(begin), last = of_lane(end);
      return {first + at, first_token, last - first_token, (index - skipped) * rows};
    }
    index -= __shfl_sync(kAllLanes, upto, kWarp - 1);
  }
  return {-1, 0, 0, 0};
}

}  // namespace tangram::cuda::attention
