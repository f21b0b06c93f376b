#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/check.h"
#include "kernels/fast_math.h"

namespace tangram {
namespace {

void check_options(const SamplingOptions& o) {
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature))
    throw bad_input("temperature {}: must be 0 or positive", o.temperature);
  if (o.top_k < 0) throw bad_input("top_k {}: must be 0 (all tokens) or positive", o.top_k);
  if (!(o.top_p > 0 && o.top_p <= 1)) throw bad_input("top_p {}: must be above 0 and at most 1", o.top_p);
}

// The id of the largest logit.
int32_t greedy(const float* logits, int64_t V) {
  int32_t best = 0;
  for (int32_t id = 0; id < V; ++id) {
    CHECK(logits[id] < std::numeric_limits<float>::infinity(), "the logit of token {} is {}", id, logits[id]);
    if (logits[id] > logits[best]) best = id;
  }
  CHECK(logits[best] > -std::numeric_limits<float>::infinity(), "all {} logits are -inf", V);
  return best;
}

double total(const std::vector<int32_t>& ids, const std::vector<float>& weights) {
  double sum = 0;
  for (const int32_t id : ids) sum += weights[id];
  return sum;
}

}  // namespace

int32_t sample_token(Tensor logits, const SamplingOptions& options, double uniform) {
  const int64_t V = logits.cols;
  CHECK(V > 0 && V <= std::numeric_limits<int32_t>::max(), "{} logits", V);
  check_tensor("logits", logits, 1, V, DType::f32);
  check_options(options);
  CHECK(uniform >= 0 && uniform < 1, "uniform is {}; must be in [0, 1)", uniform);

  const float* l = logits.as<float>();
  const int32_t best = greedy(l, V);
  if (options.temperature == 0) return best;

  std::vector<float> weights(V);  // probabilities times a constant
  for (int64_t i = 0; i < V; ++i) weights[i] = fast_exp((l[i] - l[best]) / options.temperature);

  std::vector<int32_t> ids(V);
  std::iota(ids.begin(), ids.end(), 0);
  const auto precedes = [l](int32_t a, int32_t b) { return l[a] > l[b] || (l[a] == l[b] && a < b); };
  if (options.top_k > 0 && options.top_k < V) {
    std::nth_element(ids.begin(), ids.begin() + options.top_k, ids.end(), precedes);
    ids.resize(options.top_k);
  }
  if (options.top_p < 1) {
    const double wanted = options.top_p * total(ids, weights);
    const auto follows = [&](int32_t a, int32_t b) { return precedes(b, a); };
    std::make_heap(ids.begin(), ids.end(), follows);
    double sum = 0;
    auto kept = ids.end();  // what the heap gave up gathers at the end
    while (sum < wanted && kept != ids.begin()) {
      std::pop_heap(ids.begin(), kept, follows);
      sum += weights[*--kept];
    }
    ids.erase(ids.begin(), kept);
  }

  if (std::ssize(ids) < V) std::sort(ids.begin(), ids.end());
  const double target = uniform * total(ids, weights);
  double sum = 0;
  for (const int32_t id : ids) {
    sum += weights[id];
    if (target < sum) return id;
  }
  return best;  // not reached: uniform is below 1, so target is below what the sum comes to
}

}  // namespace tangram
