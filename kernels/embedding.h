#pragma once
#include "kernels/indices.h"

namespace tangram {

/// Rows of a table:  y[n] = table[tokens[n]]
///
///   y       (N, H)  T
///   table   (V, H)  T
///   tokens  (N)         from 0 to V - 1, else Error names the first that is not
void embedding_forward(Tensor y, Tensor table, Indices tokens, Context& ctx);

/// Gradient of embedding_forward:  dtable[v] += sum of dy[n] over the n with tokens[n] = v, in the order of n
///
///   dtable  (V, H)  f32   accumulated; the result does not depend on the number of threads
///   dy      (N, H)  T
void embedding_backward(Tensor dtable, Tensor dy, Indices tokens, Context& ctx);

}  // namespace tangram
