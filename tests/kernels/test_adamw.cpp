#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/kernels/tensors.h"

namespace tangram {
namespace {

constexpr double kF32 = 0x1p-24;

AdamWTensor make(Arena& arena, int64_t rows, int64_t cols, uint64_t seed) {
  AdamWTensor t{.master = arena.tensor(rows, cols, DType::f32),
                .moment1 = arena.tensor(rows, cols, DType::f32),
                .moment2 = arena.tensor(rows, cols, DType::f32),
                .grad = arena.tensor(rows, cols, DType::f32),
                .copy = {}};
  for (int64_t i = 0; i < rows * cols; ++i) {
    t.master.as<float>()[i] = float(random_normal(seed, 0, uint64_t(i)));
    t.moment1.as<float>()[i] = float(random_normal(seed, 1, uint64_t(i)));
    t.moment2.as<float>()[i] = float(random_uniform(seed, 2, uint64_t(i)));
    t.grad.as<float>()[i] = float(3 * random_normal(seed, 3, uint64_t(i)));
  }
  return t;
}

std::vector<float> values(Tensor x) { return {x.as<float>(), x.as<float>() + x.size()}; }

struct State {
  double w, m, v;
};

// One step on one weight in f64.
State reference(State s, double grad, const AdamWTensor& t, const AdamWStep& step) {
  const double g = step.grad_scale * t.grad_scale * grad, rate = step.learning_rate * t.learning_rate_factor;
  s.m = step.beta1 * s.m + (1 - step.beta1) * g;
  s.v = step.beta2 * s.v + (1 - step.beta2) * g * g;
  const double m_hat = s.m / (1 - std::pow(step.beta1, double(step.step)));
  const double v_hat = s.v / (1 - std::pow(step.beta2, double(step.step)));
  s.w -= rate * (t.weight_decay * s.w + m_hat / (std::sqrt(v_hat) + step.epsilon));
  return s;
}

// Oracle: the formula in f64, from the same f32 state, on tensors of many sizes in one call.
TEST(AdamW, MatchesF64) {
  Context ctx({.threads = 2});
  Arena arena(1 << 22);
  std::vector<AdamWTensor> tensors;
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {1, 4101}, {0, 5}, {3, 7}, {64, 64}, {1, 2048}}) {
    tensors.push_back(make(arena, rows, cols, tensors.size()));
    tensors.back().weight_decay = 0.1 * double(tensors.size());
    tensors.back().learning_rate_factor = 1.0 / double(tensors.size());
    tensors.back().grad_scale = 2.0 / double(tensors.size());
  }
  const AdamWStep step{
      .learning_rate = 0.01, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .step = 3, .grad_scale = 0.3};
  struct Before {
    std::vector<float> w, m, v, g;
  };
  std::vector<Before> before;
  for (const AdamWTensor& t : tensors)
    before.push_back({values(t.master), values(t.moment1), values(t.moment2), values(t.grad)});
  adamw(tensors, step, ctx);
  for (size_t k = 0; k < tensors.size(); ++k) {
    const auto& [w, m, v, g] = before[k];
    for (size_t i = 0; i < w.size(); ++i) {
      const AdamWTensor& t = tensors[k];
      const State expected = reference({w[i], m[i], v[i]}, g[i], t, step);
      const double terms = std::abs(double(m[i])) + std::abs(double(g[i]));  // m may cancel
      const double update = 0.01 * terms / (1 - 0.512) / std::sqrt(expected.v);
      ASSERT_NEAR(t.moment1.as<float>()[i], expected.m, 4 * kF32 * terms) << k << ',' << i;
      ASSERT_NEAR(t.moment2.as<float>()[i], expected.v, 6 * kF32 * expected.v) << k << ',' << i;
      ASSERT_NEAR(t.master.as<float>()[i], expected.w, 3 * kF32 * std::abs(double(w[i])) + 12 * kF32 * update)
          << k << ',' << i;
      ASSERT_EQ(t.grad.as<float>()[i], g[i]);
    }
  }
}

// By hand: from zero moments, m_hat = g and v_hat = g^2, so every weight moves by the learning rate against its
// gradient, whatever the gradient's size.
TEST(AdamW, FirstStepMovesByTheLearningRate) {
  Context ctx({.threads = 1});
  float w[] = {1, 1, 1, 1}, m[4] = {}, v[4] = {}, g[] = {1e-3f, -5, 1e6f, 0};
  const AdamWTensor t{view_of(w, 1, 4), view_of(m, 1, 4), view_of(v, 1, 4), view_of(g, 1, 4), {}, 0.5, 1, 1};
  adamw({{t}}, {.learning_rate = 0.1, .epsilon = 1e-12, .step = 1}, ctx);
  EXPECT_NEAR(w[0], 0.95 - 0.1, 8 * kF32);  // 0.95: the decay, 0.1 * 0.5
  EXPECT_NEAR(w[1], 0.95 + 0.1, 8 * kF32);
  EXPECT_NEAR(w[2], 0.95 - 0.1, 8 * kF32);
  EXPECT_NEAR(w[3], 0.95, kF32);
}

TEST(AdamW, WritesCopiesAndZeroesGradients) {
  Context ctx({.threads = 2});
  Arena arena(1 << 20);
  std::vector<AdamWTensor> tensors = {make(arena, 1, 5000, 1), make(arena, 2, 9, 2), make(arena, 1, 30, 3)};
  tensors[0].copy = arena.tensor(1, 5000, DType::bf16);
  tensors[1].copy = arena.tensor(2, 9, DType::f32);
  adamw(tensors, {.learning_rate = 0.1, .zero_grads = true}, ctx);
  for (const AdamWTensor& t : tensors)
    for (int64_t i = 0; i < t.master.size(); ++i) {
      const float w = t.master.as<float>()[i];
      ASSERT_EQ(t.grad.as<float>()[i], 0);
      if (!t.copy.data) continue;
      ASSERT_EQ(get(t.copy.reshape(1, t.copy.size()), 0, i), t.copy.dtype == DType::f32 ? w : float(bf16(w)));
    }
}

TEST(AdamW, TheSameBytesOnAnyNumberOfThreads) {
  Arena arena(1 << 22);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    Context ctx({.threads = threads});
    const std::vector<AdamWTensor> tensors = {make(arena, 1, 70001, 1), make(arena, 1, 300, 2)};
    for (int64_t step = 1; step <= 3; ++step) adamw(tensors, {.learning_rate = 0.1, .step = step}, ctx);
    results.push_back(values(tensors[0].master));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(AdamW, RefusesBadInput) {
  Context ctx({.threads = 1});
  Arena arena(1 << 16);
  const AdamWTensor good = make(arena, 2, 8, 1);
  const auto refused = [&](AdamWTensor t, AdamWStep step = {}) { EXPECT_THROW(adamw({{t}}, step, ctx), Error); };
  AdamWTensor bad = good;
  bad.grad = arena.tensor(2, 9, DType::f32);
  refused(bad);
  bad.grad = bad.grad.col_range(0, 8);  // the right shape, with gaps
  refused(bad);
  bad = good, bad.moment2 = arena.tensor(2, 8, DType::bf16);
  refused(bad);
  bad = good, bad.copy = arena.tensor(2, 7, DType::bf16);
  refused(bad);
  bad = good, bad.copy = arena.tensor(2, 8, DType::f16);
  refused(bad);
  refused(good, {.step = 0});
  refused(good, {.beta1 = 1});
  refused(good, {.beta2 = -0.1});
  refused(good, {.epsilon = 0});
}

}  // namespace
}  // namespace tangram
