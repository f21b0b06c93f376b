#include "kernels/matvec.h"

#include <cstring>

#include "kernels/early_launch.cuh"
#include "kernels/mma.cuh"

// A block makes kRows sums for every token: of that many rows of w, or of half as many of two matrices. Its warps
// divide K between them, a cache line of each row at a time in turn, and what they found is added in the order of the
// warps. A lane reads 16 bytes of row lane / 4 and of the row 8 below, at place lane % 4 of 4: as the tensor cores want
// their operands, but for the order of the columns, which w and x share.
//
// While a warp multiplies, what it needs next is on its way; the first of it sets out before the kernel that makes x
// has ended. If that one does not read much itself, as attention in decode, memory would idle: so the blocks that start
// first have all that the L2 cache can well hold fetched there meanwhile.

namespace tangram::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kRows = 16, kHalf = kRows / 2;
constexpr int kParts = kWarp / kHalf;  // lanes that read a row side by side
constexpr int kMostTokens = kCudaMatvecRows;
constexpr int kLine = 128;                   // bytes that a cache line has, and a warp reads of a row at a time
constexpr int kFetchers = kThreads / kRows;  // threads that fetch lines of one row ahead
static_assert(kMostTokens == kHalf, "a tensor core's product has a column for each token");
static_assert(kThreads >= kRows * kMostTokens, "at the end a thread owns one sum");

/// The 16 bytes that a lane reads at a time.
template <class E>
constexpr int kPack = 16 / int(sizeof(E));
template <class E>
using Lot = Pack<E, kPack<E>>;

template <class Y, class E>
struct Operands {
  Y* y;  // (tokens, O)
  int64_t stride_y;
  const E *x, *norm;  // (tokens, K), (1, K) or null
  int64_t stride_x;
  const E *upper, *lower;  // of a block's rows of w, those of its first and second half; (O, K)
  int64_t stride_upper, stride_lower;
  int64_t O;
  int K, tokens;
  int early_blocks, lines_ahead;  // how many blocks fetch so many lines of every row
  float eps;
  bool accumulate, swiglu;  // swiglu: lower is another matrix than upper
};

__device__ uint4 load_stream(const void* p) {
#ifdef TANGRAM_CUDA_EMULATOR
  return *static_cast<const uint4*>(p);
#else
  uint4 v;  // volatile: not moved behind the wait for the previous kernel
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
#endif
}

__device__ void prefetch_l2(const void* p) {
#ifdef TANGRAM_CUDA_EMULATOR
  [[maybe_unused]] const volatile char there = *static_cast<const char*>(p);
#else
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// `left` columns of a row are there at p; what a lot has more is zeros. Where rows are aligned there are always enough.
template <bool aligned, bool stream, class E>
__device__ Lot<E> load(const E* p, int left) {
  Lot<E> lot{};
  if constexpr (!aligned) {
    for (int i = 0; i < kPack<E>; ++i)
      if (i < left) lot.v[i] = p[i];
  } else if constexpr (stream) {
    const uint4 words = load_stream(p);
    memcpy(&lot, &words, sizeof lot);
  } else {
    lot = *reinterpret_cast<const Lot<E>*>(p);
  }
  return lot;
}

// What a lane multiplies at a time: two lots of its upper and two of its lower row, side by side with the other lanes'.
template <class E>
struct Stage {
  static constexpr int kColumns = kLine / int(sizeof(E));  // of all lanes; aligned rows have whole stages
  static constexpr int kStride = kColumns / 2;
  Lot<E> upper[2], lower[2];
};

template <bool aligned, class E>
__device__ Stage<E> load_stage(const E* upper, const E* lower, int left) {
  Stage<E> s;
  for (int i = 0; i < 2; ++i) {
    s.upper[i] = load<aligned, true>(upper + i * s.kStride, left - i * s.kStride);
    s.lower[i] = load<aligned, true>(lower + i * s.kStride, left - i * s.kStride);
  }
  return s;
}

/// What the warps of a block have summed.
struct Partial {
  float sums[kWarps][kMostTokens][kRows];
  float squares[kWarps][kMostTokens];
};

__device__ float sum_over_parts(float x) {
  for (int mask = kParts / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
  return x;
}

/// A lane's sums, and with a norm those of the squares of x. x is multiplied by the norm's weight; 1 / rms waits for
/// the end, where it is known.
template <class E, bool norm, bool aligned>
struct Sums;

template <bool norm, bool aligned>
struct Sums<float, norm, aligned> {
  using L = Lot<float>;
  float upper[kMostTokens] = {}, lower[kMostTokens] = {}, squares[kMostTokens] = {};

  template <class Y>
  __device__ void add(const Operands<Y, float>& op, const Stage<float>& w, int column) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = column + i * w.kStride;
      const L weight = norm ? load<aligned, false>(op.norm + k, op.K - k) : L{};
#pragma unroll
      for (int n = 0; n < kMostTokens; ++n) {
        if (n >= op.tokens) break;
        const L x = load<aligned, false>(op.x + n * op.stride_x + k, op.K - k);
        for (int j = 0; j < kPack<float>; ++j) {
          const float xj = norm ? x.v[j] * weight.v[j] : x.v[j];
          upper[n] += w.upper[i].v[j] * xj, lower[n] += w.lower[i].v[j] * xj;
          if (norm) squares[n] += x.v[j] * x.v[j];
        }
      }
    }
  }

  __device__ void put(Partial& partial, int warp, int row, int part) {
#pragma unroll
    for (int n = 0; n < kMostTokens; ++n) {
      const float u = sum_over_parts(upper[n]), l = sum_over_parts(lower[n]), s = sum_over_parts(squares[n]);
      if (part > 0) continue;
      partial.sums[warp][n][row] = u, partial.sums[warp][n][row + kHalf] = l;
      if (row == 0) partial.squares[warp][n] = s;  // the same in every row's lanes
    }
  }
};

// The tensor cores take 8 tokens at once. A lane brings x of token lane / 4, or where there are fewer of the last one:
// a token's sums do not depend on the others'. The squares are the diagonal of x x^T.
template <bool norm, bool aligned>
struct Sums<__nv_bfloat16, norm, aligned> {
  using L = Lot<__nv_bfloat16>;
  float of[4] = {}, products[4] = {};

  template <class Y>
  __device__ void add(const Operands<Y, __nv_bfloat16>& op, const Stage<__nv_bfloat16>& w, int column) {
    const int token = min(int(threadIdx.x) % kWarp / kParts, op.tokens - 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = column + i * w.kStride;
      const L x = load<aligned, false>(op.x + token * op.stride_x + k, op.K - k);
      uint32_t u[4], l[4], b[4];
      memcpy(u, &w.upper[i], sizeof u), memcpy(l, &w.lower[i], sizeof l), memcpy(b, &x, sizeof b);
      if (norm) {
        const L weight = load<aligned, false>(op.norm + k, op.K - k);
        multiply_add(products, {b[0], 0, b[1], 0}, b[0], b[1]);
        multiply_add(products, {b[2], 0, b[3], 0}, b[2], b[3]);
        __nv_bfloat162 pairs[4], weights[4];
        memcpy(pairs, b, sizeof pairs), memcpy(weights, &weight, sizeof weights);
        for (int j = 0; j < 4; ++j) pairs[j] = __hmul2(pairs[j], weights[j]);
        memcpy(b, pairs, sizeof b);
      }
      multiply_add(of, {u[0], l[0], u[1], l[1]}, b[0], b[1]);
      multiply_add(of, {u[2], l[2], u[3], l[3]}, b[2], b[3]);
    }
  }

  __device__ void put(Partial& partial, int warp, int row, int part) {
    for (int i = 0; i < 4; ++i) partial.sums[warp][2 * part + i % 2][row + i / 2 * kHalf] = of[i];
    for (int i = 0; i < 2; ++i)
      if (2 * part + i == row) partial.squares[warp][row] = products[i];
  }
};

// Blocks of a multiprocessor at a time, as the registers allow.
template <bool aligned, class E>
constexpr int kBlocks = !aligned         ? 1
                        : sizeof(E) == 2 ? 3
                                         : 2;

template <bool norm, bool aligned, class Y, class E>
__global__ void __launch_bounds__(kThreads, kBlocks<aligned, E>) matvec_kernel(const Operands<Y, E> op) {
  __shared__ Partial partial;
  const int warp = int(threadIdx.x) / kWarp, row = int(threadIdx.x) % kWarp / kParts, part = int(threadIdx.x) % kParts;
  const int outputs = op.swiglu ? kHalf : kRows;
  const int64_t first = int64_t{blockIdx.x} * outputs, last = op.O - 1;  // rows beyond the last: that again, for nobody
  const auto upper_row = [&](int r) { return op.upper + min(first + r, last) * op.stride_upper; };
  const auto lower_row = [&](int r) { return op.lower + min(first + outputs - kHalf + r, last) * op.stride_lower; };

  constexpr int kColumns = Stage<E>::kColumns, kStep = kWarps * kColumns;  // of the warp and the block at a time
  int base = warp * kColumns;
  const int in_line = part * kPack<E>;
  const E *upper = upper_row(row) + in_line, *lower = lower_row(row) + in_line;
  Stage<E> now;
  if (base < op.K) now = load_stage<aligned>(upper + base, lower + base, op.K - base - in_line);
  let_next_start();
  if (int(blockIdx.x) < op.early_blocks) {
    const int r = int(threadIdx.x) / kFetchers, end = min(op.K, kStep + op.lines_ahead * kColumns);
    const E* fetched = r < kHalf ? upper_row(r) : lower_row(r - kHalf);
    for (int k = kStep + int(threadIdx.x) % kFetchers * kColumns; k < end; k += kFetchers * kColumns)
      prefetch_l2(fetched + k);
  }
  wait_for_previous();

  const int output = int(threadIdx.x) % kRows, token = int(threadIdx.x) / kRows;
  const bool owner = token < op.tokens && output < outputs && first + output < op.O;
  Y* y = op.y + token * op.stride_y + first + output;
  const float before = owner && op.accumulate ? to_float(*y) : 0;

  Sums<E, norm, aligned> sums;
  for (; base < op.K; base += kStep) {
    Stage<E> next = now;
    if (const int k = base + kStep; k < op.K) next = load_stage<aligned>(upper + k, lower + k, op.K - k - in_line);
    sums.add(op, now, base + in_line);
    now = next;
  }
  sums.put(partial, warp, row, part);
  __syncthreads();
  if (!owner) return;

  float sum = 0, gated = 0, squares = 0;
  for (int w = 0; w < kWarps; ++w) {
    sum += partial.sums[w][token][output];
    gated += partial.sums[w][token][output % kHalf + kHalf];
    squares += partial.squares[w][token];
  }
  if (norm) {
    const float scale = 1 / sqrtf(squares / float(op.K) + op.eps);
    sum *= scale, gated *= scale;
  }
  if (op.swiglu) sum = sum / (1 + expf(-sum)) * gated;
  *y = from_float<Y>(before + sum);
}

// What the blocks of a launch that start first fetch ahead: about half of an H200's L2 cache together.
constexpr int64_t kBytesAhead = int64_t{24} << 20, kMultiprocessors = 132;

}  // namespace

void matvec(Tensor y, Tensor x, Tensor w, const MatvecOptions& options, Context& ctx) {
  if (y.size() == 0) return;
  CHECK(w.cols <= INT32_MAX - kThreads * kLine, "a weight of {} columns", w.cols);
  const bool swiglu = options.up.data != nullptr;
  const Tensor lower = swiglu ? options.up : w;
  const dim3 blocks(unsigned(ceil_div(w.rows, swiglu ? kHalf : kRows)));
  const int64_t first_blocks = std::min<int64_t>(blocks.x, kMultiprocessors * kBlocks<true, __nv_bfloat16>);
  const int early_blocks = ctx.weights_at_rest ? int(first_blocks) : 0;
  const int lines_ahead = int(kBytesAhead / (first_blocks * kRows * kLine));
  dispatch(w.dtype, [&]<class T>() {
    const auto run = [&]<class Y>() {
      const Operands<Element<Y>, Element<T>> operands{.y = data<Y>(y),
                                                      .stride_y = y.stride,
                                                      .x = data<T>(x),
                                                      .norm = data<T>(options.norm),
                                                      .stride_x = x.stride,
                                                      .upper = data<T>(w),
                                                      .lower = data<T>(lower),
                                                      .stride_upper = w.stride,
                                                      .stride_lower = lower.stride,
                                                      .O = w.rows,
                                                      .K = int(w.cols),
                                                      .tokens = int(x.rows),
                                                      .early_blocks = early_blocks,
                                                      .lines_ahead = lines_ahead,
                                                      .eps = options.eps,
                                                      .accumulate = options.accumulate,
                                                      .swiglu = swiglu};
      const auto start = [&]<bool norm, bool aligned>() {
        launch_early(matvec_kernel<norm, aligned, Element<Y>, Element<T>>, blocks, kThreads, 0, ctx, operands);
      };
      const bool norm = options.norm.data, aligned = w.cols % Stage<Element<T>>::kColumns == 0 &&
                                                     pack_size<T>({x, w, lower}) > 1 &&
                                                     (!norm || pack_size<T>({options.norm}) > 1);
      if (norm)
        aligned ? start.template operator()<true, true>() : start.template operator()<true, false>();
      else
        aligned ? start.template operator()<false, true>() : start.template operator()<false, false>();
    };
    if (y.dtype == DType::f32)
      run.template operator()<float>();
    else
      run.template operator()<T>();
  });
}

}  // namespace tangram::cuda
