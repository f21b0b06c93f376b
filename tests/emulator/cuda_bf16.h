#pragma once
#include "cuda_runtime.h"
#include "kernels/dtype.h"

/// The toolkit's bfloat16 with the conversions that kernels use.
struct __nv_bfloat16 {
  tangram::bf16 value;
};
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {tangram::bf16(x)}; }
inline float __bfloat162float(__nv_bfloat16 x) { return x.value; }
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {__float2bfloat16_rn(__bfloat162float(a.x) * __bfloat162float(b.x)),
          __float2bfloat16_rn(__bfloat162float(a.y) * __bfloat162float(b.y))};
}
