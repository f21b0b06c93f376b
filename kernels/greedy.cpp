#include "kernels/greedy.h"

#include <cmath>
#include <limits>

#include "kernels/check.h"

namespace tangram {

static int32_t largest(const float* logits, int64_t V) {
  const auto rank = [&](int64_t i) {
    return std::isnan(logits[i]) ? std::numeric_limits<float>::infinity() : logits[i];
  };
  int64_t best = 0;
  for (int64_t i = 1; i < V; ++i)
    if (rank(i) > rank(best)) best = i;
  return static_cast<int32_t>(best);
}

void greedy_step(Tensor ids, Tensor best, Tensor past, Tensor logits, Context& ctx) {
  const int64_t S = logits.rows;
  CHECK(logits.cols > 0 && logits.cols <= INT32_MAX, "{} logits", logits.cols);
  check_tensor("logits", logits, S, logits.cols, DType::f32);
  check_tensor("ids", ids, 1, S, DType::i32);
  check_tensor("best", best, 1, S, DType::f32);
  check_tensor("past", past, 1, S, DType::i32);
  if (ctx.planning()) return;
  if constexpr (kCudaBuilt)
    if (on_cuda(ctx, {ids, best, past, logits})) return cuda::greedy_step(ids, best, past, logits, ctx);
  for (int64_t s = 0; s < S; ++s) {
    const int32_t id = ids.as<int32_t>()[s] = largest(logits.row<float>(s), logits.cols);
    best.as<float>()[s] = logits.row<float>(s)[id];
    ++past.as<int32_t>()[s];
  }
}

}  // namespace tangram
