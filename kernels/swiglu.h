#pragma once
#include "kernels/context.h"

namespace tangram {

/// The gated activation of Llama's FFN (Shazeer 2020, arXiv:2002.05202):
///
///   h[n,i] = silu(gate[n,i]) * up[n,i]     silu(z) = z s(z)     s(z) = 1 / (1 + e^-z)
///
///   h, gate, up  (N, I)  T     any row strides (columns of one wide product); h may be gate or up
///
/// Computed in f32 for either T. Throws Error if a shape or dtype disagrees.
void swiglu_forward(Tensor h, Tensor gate, Tensor up, Context& ctx);

/// Gradient of swiglu_forward:
///
///   dgate = dh * up * s(gate) * (1 + gate * (1 - s(gate)))     dup = dh * silu(gate)
///
///   dgate, dup  (N, I)  T     overwritten; each may be gate, up or dh, but they are not the same
void swiglu_backward(Tensor dgate, Tensor dup, Tensor dh, Tensor gate, Tensor up, Context& ctx);

namespace cuda {  // swiglu.cu; arguments already checked
void swiglu_forward(Tensor h, Tensor gate, Tensor up, Context& ctx);
void swiglu_backward(Tensor dgate, Tensor dup, Tensor dh, Tensor gate, Tensor up, Context& ctx);
}  // namespace cuda

}  // namespace tangram
