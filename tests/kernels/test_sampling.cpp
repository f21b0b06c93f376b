#include "kernels/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/random.h"

namespace tangram {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t sample(const std::vector<float>& logits, const SamplingOptions& options, double uniform) {
  return sample_token(view_of(logits.data(), 1, std::ssize(logits)), options, uniform);
}

// The probability of every token in f64, by sorting all of them.
std::vector<double> probabilities(const std::vector<float>& logits, const SamplingOptions& o) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (o.top_k > 0) order.resize(std::min(order.size(), size_t(o.top_k)));
  std::vector<double> p(logits.size());
  double total = 0, kept = 0;
  for (const size_t i : order)
    total += p[i] = std::exp((double(logits[i]) - double(logits[order[0]])) / double(o.temperature));
  for (const size_t i : order) {
    const double all_before = kept;
    kept += p[i];
    if (all_before >= o.top_p * total) kept -= p[i], p[i] = 0;
  }
  for (double& v : p) v /= kept;
  return p;
}

struct Case {
  float temperature;
  int64_t top_k;
  double top_p;
};

class SamplingTest : public testing::TestWithParam<Case> {};

// Over evenly spaced uniforms each token must come up in proportion to its probability: exactly, but for one at either
// end.
TEST_P(SamplingTest, FollowsTheDistribution) {
  const SamplingOptions options{GetParam().temperature, GetParam().top_k, GetParam().top_p};
  constexpr int kCount = 4000;
  std::vector<float> logits(41);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = float(2 * random_normal(8, 0, i));
  logits[3] = -kInfinity;
  logits[20] = logits[10] = logits[30];
  const std::vector<double> expected = probabilities(logits, options);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kCount; ++i) ++counts[size_t(sample(logits, options, (i + 0.5) / kCount))];
  for (size_t i = 0; i < logits.size(); ++i) {
    EXPECT_NEAR(counts[i], expected[i] * kCount, 1.01) << i;
    EXPECT_TRUE(expected[i] > 0 || counts[i] == 0) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Options, SamplingTest,
                         testing::Values(Case{1, 0, 1}, Case{0.7f, 0, 1}, Case{3, 5, 1}, Case{1, 1, 1}, Case{1, 100, 1},
                                         Case{1.5f, 0, 0.9}, Case{1, 0, 0.01}, Case{2, 12, 0.6}, Case{1e-3f, 0, 0.95}));

TEST(Sampling, GreedyTakesTheLowestIdOfTheLargest) {
  EXPECT_EQ(sample({1, 5, 2, 5, 5}, {.temperature = 0}, 0.9), 1);
  EXPECT_EQ(sample({-kInfinity, -7}, {.temperature = 0}, 0), 1);
  EXPECT_EQ(sample({3}, {.temperature = 0}, 0), 0);
  EXPECT_EQ(sample({2, 2, 2, 2}, {.top_k = 2}, 0.99), 1);  // so do ties at the edge of top_k, and of top_p
  EXPECT_EQ(sample({2, 2, 2, 2}, {.top_p = 0.5}, 0.99), 1);
}

TEST(Sampling, NeverTakesAForbiddenToken) {
  const std::vector<float> logits = {-kInfinity, 0, 0, -kInfinity};
  for (const double u : {0.0, 0.4999, 0.5, 1 - 0x1p-53}) {
    const int32_t id = sample(logits, {}, u);
    EXPECT_TRUE(id == 1 || id == 2) << u;
  }
  EXPECT_EQ(sample(logits, {.temperature = 1e-40f}, 0), 1);
}

TEST(Sampling, RefusesBadInput) {
  const std::vector<float> logits = {1, 2}, nan = {1, std::nanf("")}, nan_first = {std::nanf(""), 1};
  EXPECT_THROW(sample(logits, {.temperature = -1}, 0), Error);
  EXPECT_THROW(sample(logits, {.temperature = std::nanf("")}, 0), Error);
  EXPECT_THROW(sample(logits, {.top_k = -1}, 0), Error);
  EXPECT_THROW(sample(logits, {.top_p = 0}, 0), Error);
  EXPECT_THROW(sample(logits, {.top_p = 1.5}, 0), Error);
  EXPECT_THROW(sample(logits, {}, 1), Error);
  EXPECT_THROW(sample(logits, {}, std::nan("")), Error);
  EXPECT_THROW(sample({}, {}, 0), Error);
  EXPECT_THROW(sample(nan, {}, 0), Error);
  EXPECT_THROW(sample(nan_first, {.temperature = 0}, 0), Error);
  EXPECT_THROW(sample({kInfinity, 1}, {}, 0), Error);
  EXPECT_THROW(sample({-kInfinity, -kInfinity}, {}, 0), Error);
}

}  // namespace
}  // namespace tangram
