#pragma once
#include "kernels/cuda.cuh"

// The tensor cores' product of a warp, as one instruction.

namespace tangram::cuda {

/// d (16, 8) += a (16, 16) b (16, 8), in f32 from bf16; all lanes of a warp call it. With g = lane / 4, t = lane % 4,
/// and two bf16 in a word, the first in its lower half:
///
///   a  words of rows g, g + 8, g, g + 8 and columns 2t, 2t + 1; of the last two words columns 2t + 8, 2t + 9
///   b  words of rows 2t, 2t + 1, then 2t + 8, 2t + 9 of column g
///   d  columns 2t, 2t + 1 of row g, then of row g + 8
__device__ inline void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef TANGRAM_CUDA_EMULATOR
  emulator::mma_16x8x16(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

}  // namespace tangram::cuda
