#include "kernels/embedding.h"

#include <algorithm>
#include <numeric>

#include "kernels/check.h"
#include "kernels/transfer.h"

namespace tangram {
namespace {

constexpr int64_t kLineFloats = 16;

void check_tokens(Indices tokens, int64_t vocabulary) {
  for (size_t n = 0; n < tokens.span().size(); ++n)
    if (tokens[n] < 0 || tokens[n] >= vocabulary)
      throw bad_input("token {} at position {}: the vocabulary has {}", tokens[n], n, vocabulary);
}

/// Row 0: the positions 0 to N - 1 by token and then by position. Row 1: where in it each token that occurs begins, and
/// N behind the last. Row 2: those tokens. Returns how many they are.
int64_t group_by_token(Tensor lists, std::span<const int32_t> tokens) {
  int32_t *order = lists.row<int32_t>(0), *starts = lists.row<int32_t>(1), *ids = lists.row<int32_t>(2);
  const int64_t N = std::ssize(tokens);
  std::iota(order, order + N, 0);
  std::stable_sort(order, order + N, [&](int32_t a, int32_t b) { return tokens[a] < tokens[b]; });
  int64_t count = 0;
  for (int64_t i = 0; i < N; ++i) {
    if (i > 0 && tokens[order[i]] == tokens[order[i - 1]]) continue;
    starts[count] = int32_t(i);
    ids[count++] = tokens[order[i]];
  }
  starts[count] = int32_t(N);
  return count;
}

}  // namespace

void embedding_forward(Tensor y, Tensor table, Indices tokens, Context& ctx) {
  check_tensor("y", y, std::ssize(tokens), table.cols, table.dtype);
  check_tokens(tokens, table.rows);
  const ArenaScope scope(ctx.scratch);
  const int32_t* ids = tokens.on_device(ctx);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {y, table})) return cuda::embedding_forward(y, table, ids, ctx);
  dispatch(table.dtype, [&]<class T>() {
#pragma omp parallel for num_threads(ctx.threads) schedule(static) if (y.rows > 1)
    for (int64_t n = 0; n < y.rows; ++n) std::copy_n(table.row<T>(ids[n]), y.cols, y.row<T>(n));
  });
}

void embedding_backward(Tensor dtable, Tensor dy, Indices tokens, Context& ctx) {
  check_tensor("dy", dy, std::ssize(tokens), dtable.cols, dy.dtype);
  check_tensor("dtable", dtable, dtable.rows, dy.cols, DType::f32);
  CHECK(!tokens.span().empty() || tokens.empty(), "only the GPU knows the {} tokens", tokens.size());
  check_tokens(tokens, dtable.rows);
  const ArenaScope scope(ctx.scratch);
  const Tensor lists = ctx.scratch.tensor(3, ctx.device == Device::cuda ? dy.rows + 1 : 0, DType::i32);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {dtable, dy})) {
      std::vector<int32_t> host(static_cast<size_t>(lists.size()));
      const Tensor sorted = view_of(host.data(), lists.rows, lists.cols);
      const int64_t count = group_by_token(sorted, tokens.span());
      transfer(lists, sorted, ctx);
      return cuda::embedding_backward(dtable, dy, lists, count, ctx);
    }
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
