#include "kernels/embedding.h"

#include <algorithm>

#include "kernels/check.h"

namespace tangram {
namespace {

constexpr int64_t kLineFloats = 16;

void check_tokens(Indices tokens, int64_t vocabulary) {
  for (size_t n = 0; n < tokens.size(); ++n)
    if (tokens[n] < 0 || tokens[n] >= vocabulary)
      throw bad_input("token {} at position {}: the vocabulary has {}", tokens[n], n, vocabulary);
}

}  // namespace

void embedding_forward(Tensor y, Tensor table, Indices tokens, Context& ctx) {
  check_tensor("y", y, std::ssize(tokens), table.cols, table.dtype);
  check_tokens(tokens, table.rows);
  dispatch(table.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (y.rows > 1)
    for (int64_t n = 0; n < y.rows; ++n) std::copy_n(table.row<T>(tokens[n]), y.cols, y.row<T>(n));
  });
}

void embedding_backward(Tensor dtable, Tensor dy, Indices tokens, Context& ctx) {
  check_tensor("dy", dy, std::ssize(tokens), dtable.cols, dy.dtype);
  check_tensor("dtable", dtable, dtable.rows, dy.cols, DType::f32);
  check_tokens(tokens, dtable.rows);
  // A thread owns columns, so that two rows of the same token never meet.
  const int64_t columns = round_up(ceil_div(dy.cols, ctx.threads), kLineFloats), slices = ceil_div(dy.cols, columns);
  dispatch(dy.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static)
    for (int64_t slice = 0; slice < slices; ++slice)
      for (int64_t n = 0; n < dy.rows; ++n) {
        const int64_t first = slice * columns, last = std::min(first + columns, dy.cols);
        const T* from = dy.row<T>(n);
        float* to = dtable.row<float>(tokens[n]);
#pragma GCC ivdep
        for (int64_t c = first; c < last; ++c) to[c] += float(from[c]);
      }
  });
}

}  // namespace tangram
