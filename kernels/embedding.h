#pragma once
#include "kernels/indices.h"

namespace tangram {

/// Rows of a table:  y[n] = table[tokens[n]]
///
///   y       (N, H)  T
///   table   (V, H)  T
///   tokens  (N)         from 0 to V - 1, else Error names the first that is not (where the host knows them)
void embedding_forward(Tensor y, Tensor table, Indices tokens, Context& ctx);

/// Gradient of embedding_forward:  dtable[v] += sum of dy[n] over the n with tokens[n] = v, in the order of n
///
///   dtable  (V, H)  f32   accumulated; the result does not depend on the number of threads
///   dy      (N, H)  T
///   tokens  (N)           known to the host
void embedding_backward(Tensor dtable, Tensor dy, Indices tokens, Context& ctx);

namespace cuda {  // embedding.cu; arguments already checked
void embedding_forward(Tensor y, Tensor table, const int32_t* tokens, Context& ctx);
/// `lists` (3, N + 1) i32: the positions 0 to N - 1 by token and then by position; where in them each of the `count`
/// tokens that occur begins, and N; those tokens.
void embedding_backward(Tensor dtable, Tensor dy, Tensor lists, int64_t count, Context& ctx);
}  // namespace cuda

}  // namespace tangram
