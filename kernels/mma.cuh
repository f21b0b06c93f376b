#pragma once
#include <bit>
#include <cstdint>

#include "kernels/cuda.cuh"

// The instructions of tensor cores and of asynchronous copies, which CUDA C++ has only as PTX, as functions (PTX
// ISA 9.0, "Matrix multiply-accumulate", "Asynchronous copy"). All lanes of a warp call those on matrices together. The
// emulator moves the same numbers between the same lanes, and copies no sooner than a program waits for the copy.

namespace tangram::cuda {

/// Two neighbours in one register, the first in the lower half.
__device__ inline uint32_t pack_bf16(float first, float second) {
#ifdef TANGRAM_CUDA_EMULATOR
  return bf16(first).bits | uint32_t{bf16(second).bits} << 16;
#else
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  return packed;
#endif
}

/// 2^x to two roundings.
__device__ inline float exp2_fast(float x) {
#ifdef TANGRAM_CUDA_EMULATOR
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// d += a b for a (16, 16), b (16, 8) in bf16 and d in f32. With g = lane / 4 and c = lane % 4 * 2, a lane holds the
/// pairs
///
///   a  (g, c..), (g + 8, c..), (g, c + 8..), (g + 8, c + 8..)
///   b  (c.., g), (c + 8.., g)
///   d  (g, c), (g, c + 1), (g + 8, c), (g + 8, c + 1)
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef TANGRAM_CUDA_EMULATOR
  struct Fragments {
    uint32_t a[4], b[2];
  };
  emulator::with_all_lanes(Fragments{{a[0], a[1], a[2], a[3]}, {b0, b1}}, [&](auto of_lane) {
    const auto half = [](uint32_t pair, int k) { return std::bit_cast<float>(k % 2 ? pair & 0xffff0000 : pair << 16); };
    const int g = emulator::lane() / 4, c = emulator::lane() % 4 * 2;
    for (int k = 0; k < 16; ++k)
      for (int i = 0; i < 4; ++i) {
        const int row = i / 2, column = c + i % 2;
        const float x = half(of_lane(g * 4 + k % 8 / 2).a[row + k / 8 * 2], k);
        d[i] += x * half(of_lane(column * 4 + k % 8 / 2).b[k / 8], k);
      }
  });
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

#ifdef TANGRAM_CUDA_EMULATOR
// Matrix i has its row r at the address of lane 8 i + r. Lane l gets elements (l / 4, l % 4 * 2..) of each, or of its
// transpose.
template <bool kTransposed>
void load_matrices(uint32_t (&m)[4], const void* row) {
  CHECK(reinterpret_cast<uintptr_t>(row) % 16 == 0, "the row of a matrix at {}; must be aligned to 16 bytes", row);
  emulator::with_all_lanes(static_cast<const uint16_t*>(row), [&](auto row_of) {
    const int g = emulator::lane() / 4, c = emulator::lane() % 4 * 2;
    for (int i = 0; i < 4; ++i) {
      const auto element = [&](int r, int k) { return uint32_t{row_of(8 * i + r)[k]}; };
      m[i] = kTransposed ? element(c, g) | element(c + 1, g) << 16 : element(g, c) | element(g, c + 1) << 16;
    }
  });
}
#else
__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

template <bool kTransposed>
__device__ void load_matrices(uint32_t (&m)[4], const void* row) {
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row))
                 : "memory");
}
#endif

/// The fragment a of multiply_add from a matrix in shared memory whose row 0, column 0 is at `m`.
__device__ inline void load_a(uint32_t (&a)[4], const __nv_bfloat16* m, int stride) {
  const int lane = threadIdx.x % kWarp;
  load_matrices<false>(a, m + lane % 16 * stride + lane / 16 * 8);
}

/// The fragments b of two products side by side (b[0], b[1] and b[2], b[3]) from the transpose of a (16, 16) matrix.
__device__ inline void load_b_transposed(uint32_t (&b)[4], const __nv_bfloat16* m, int stride) {
  const int lane = threadIdx.x % kWarp;
  load_matrices<false>(b, m + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}

/// The same from the matrix itself.
__device__ inline void load_b(uint32_t (&b)[4], const __nv_bfloat16* m, int stride) {
  const int lane = threadIdx.x % kWarp;
  load_matrices<true>(b, m + lane % 16 * stride + lane / 16 * 8);
}

/// Starts copying 16 bytes to shared memory, or writing 16 bytes of zeros; both addresses aligned to them.
__device__ inline void start_copy16(void* shared, const void* global, bool zeros) {
#ifdef TANGRAM_CUDA_EMULATOR
  CHECK((reinterpret_cast<uintptr_t>(shared) | (zeros ? 0 : reinterpret_cast<uintptr_t>(global))) % 16 == 0,
        "a copy from {} to {}; both must be aligned to 16 bytes", global, shared);
  emulator::start_copy(shared, zeros ? nullptr : global, 16);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(zeros ? 0 : 16)
               : "memory");
#endif
}

/// Makes a group of the copies that this thread started since the last one.
__device__ inline void end_copy_group() {
#ifdef TANGRAM_CUDA_EMULATOR
  emulator::end_copy_group();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until all but the last kLeft groups of this thread are done. Others see them after the next barrier.
template <int kLeft>
__device__ void wait_for_copies() {
#ifdef TANGRAM_CUDA_EMULATOR
  emulator::wait_for_copies(kLeft);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

}  // namespace tangram::cuda
