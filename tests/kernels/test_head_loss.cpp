#include "kernels/head_loss.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

namespace tangram {
namespace {

constexpr double kF32 = 0x1p-24;

double at(Tensor x, int64_t r, int64_t c) {
  return x.dtype == DType::f32 ? x.row<float>(r)[c] : float(x.row<bf16>(r)[c]);
}

struct Case {
  int64_t N, H, V, teacher_H;
  DType dtype, teacher_dtype;
  int64_t tile_bytes;
};

/// Random inputs, and the outputs of head_loss.
struct Problem {
  explicit Problem(const Case& shape, float spread = 1.5f) : c(shape) {
    in.student = random_head(c.H, c.dtype, spread);
    in.teacher = random_head(c.teacher_H, c.teacher_dtype, spread);
    in.tile_bytes = c.tile_bytes;
    for (int64_t n = 0; n < c.N; ++n) {
      targets.push_back(n % 5 == 3 ? -1 : int32_t(rng() % c.V));
      weights.push_back(0.25f * float(n % 4));
    }
    in.targets = targets;
    objective = {.cross_entropy_scale = 0.6f, .kl_scale = 0.9f, .weights = weights};
    out = {result(DType::f32), result(DType::f32), result(DType::i32), result(DType::i32)};
    dhidden = arena.tensor(c.N, c.H, c.dtype);
    dweight = arena.tensor(c.V, c.H, DType::f32);
    for (int64_t i = 0; i < dweight.size(); ++i) dweight.as<float>()[i] = 0.5f;  // what is accumulated onto
  }

  void run() { head_loss_forward_backward(out, dhidden, dweight, in, objective, ctx); }

  Tensor result(DType dtype) { return arena.tensor(1, c.N, dtype); }

  Head random_head(int64_t H, DType dtype, float spread) {
    // Rows are wider than H, so that strides matter.
    return {random_tensor(c.N, H, dtype, 1), random_tensor(c.V, H, dtype, spread / std::sqrt(float(H)))};
  }

  Tensor random_tensor(int64_t rows, int64_t cols, DType dtype, float deviation) {
    const Tensor values = arena.tensor(rows, cols, DType::f32);
    const Tensor x = arena.tensor(rows, cols + 2, dtype).col_range(1, cols);
    std::normal_distribution<float> normal(0, deviation);
    for (int64_t i = 0; i < values.size(); ++i) values.as<float>()[i] = normal(rng);
    copy(x, values);
    return x;
  }

  Case c;
  std::mt19937 rng{7};
  Arena arena{64 << 20};
  Context ctx{{.threads = 2}};
  HeadInputs in;
  std::vector<int32_t> targets;
  std::vector<float> weights;
  HeadObjective objective;
  HeadLosses out;
  Tensor dhidden, dweight;
};

using Row = std::vector<double>;

Row logits_f64(const Head& head, int64_t n) {
  Row logits(head.weight.values.rows);
  for (size_t v = 0; v < logits.size(); ++v)
    for (int64_t h = 0; h < head.hidden.cols; ++h) logits[v] += at(head.hidden, n, h) * at(head.weight.values, v, h);
  return logits;
}

double lse_f64(const Row& x) {
  const double m = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double v : x) sum += std::exp(v - m);
  return m + std::log(sum);
}

double cross_entropy_f64(const Row& l, int32_t target) { return target < 0 ? 0 : lse_f64(l) - l[target]; }

double kl_f64(const Row& l, const Row& t) {
  const double lse_l = lse_f64(l), lse_t = lse_f64(t);
  double kl = 0;
  for (size_t v = 0; v < l.size(); ++v) kl += std::exp(t[v] - lse_t) * ((t[v] - lse_t) - (l[v] - lse_l));
  return kl;
}

double objective_f64(const HeadInputs& in, const HeadObjective& objective) {
  double sum = 0;
  for (int64_t n = 0; n < in.student.hidden.rows; ++n) {
    const Row l = logits_f64(in.student, n);
    double loss = objective.cross_entropy_scale * cross_entropy_f64(l, in.targets[n]);
    if (in.teacher) loss += objective.kl_scale * kl_f64(l, logits_f64(*in.teacher, n));
    sum += (objective.weights.empty() ? 1 : objective.weights[n]) * loss;
  }
  return sum;
}

/// Largest error of a logit: a sum of H products in f32.
double logit_error(const Head& head, int64_t n) {
  double worst = 0;
  for (int64_t v = 0; v < head.weight.values.rows; ++v) {
    double magnitude = 0;
    for (int64_t h = 0; h < head.hidden.cols; ++h)
      magnitude += std::abs(at(head.hidden, n, h) * at(head.weight.values, v, h));
    worst = std::max(worst, magnitude);
  }
  return head.hidden.cols * kF32 * worst;
}

// Relative error of a sum of exponentials: 2 ulp of exp, then 512 terms in at least 8 lanes.
constexpr double kSumError = (4 + 512 / 8 + 8) * kF32;

int rank_f64(const Row& l, const Row& t) {
  const size_t best = std::max_element(t.begin(), t.end()) - t.begin();
  int rank = 0;
  for (size_t v = 0; v < l.size(); ++v) rank += l[v] > l[best] || (l[v] == l[best] && v < best);
  return std::min(rank, kHeadTopTokens);
}

void expect_losses(const Problem& p) {
  for (int64_t n = 0; n < p.c.N; ++n) {
    const Row l = logits_f64(p.in.student, n), t = logits_f64(*p.in.teacher, n);
    const double error = 2 * logit_error(p.in.student, n) + 2 * logit_error(*p.in.teacher, n) + 3 * kSumError;
    const double ce = cross_entropy_f64(l, p.targets[n]), kl = kl_f64(l, t);
    EXPECT_NEAR(p.out.cross_entropy.as<float>()[n], ce, error + kF32 * ce) << n;
    double gap = 0;  // the sum of p_t (t - l) has relative errors of its terms
    const double lse = lse_f64(t);
    for (size_t v = 0; v < l.size(); ++v) gap += std::exp(t[v] - lse) * std::abs(t[v] - l[v]);
    EXPECT_NEAR(p.out.kl.as<float>()[n], kl, error + 2 * kSumError * gap + kF32 * kl) << n;
    EXPECT_EQ(p.out.greedy.as<int32_t>()[n], std::max_element(l.begin(), l.end()) - l.begin()) << n;
    EXPECT_EQ(p.out.teacher_rank.as<int32_t>()[n], rank_f64(l, t)) << n;
  }
}

/// One token's gradient to its logits, and the error of the f32 one: two probabilities and one rounding to T.
void logit_gradient_f64(const Problem& p, int64_t n, Row& dl, Row& error) {
  const Row l = logits_f64(p.in.student, n), t = logits_f64(*p.in.teacher, n);
  const double lse_l = lse_f64(l), lse_t = lse_f64(t);
  const double weight = p.weights[n], k = weight * p.objective.kl_scale;
  const double c = p.targets[n] < 0 ? 0 : weight * p.objective.cross_entropy_scale;
  const double error_l = 2 * logit_error(p.in.student, n) + kSumError;
  const double error_t = 2 * logit_error(*p.in.teacher, n) + kSumError;
  for (size_t v = 0; v < l.size(); ++v) {
    const double pl = std::exp(l[v] - lse_l), pt = std::exp(t[v] - lse_t);
    dl[v] = c * (pl - (p.targets[n] == int64_t(v))) + k * (pl - pt);
    error[v] = (c + k) * pl * error_l + k * pt * error_t + 4 * kF32 * c + unit_roundoff(p.c.dtype) * std::abs(dl[v]);
  }
}

void expect_gradients(const Problem& p) {
  const auto [N, H, V] = std::tuple(p.c.N, p.c.H, p.c.V);
  const Tensor hidden = p.in.student.hidden, weight = p.in.student.weight.values;
  Row dweight(V * H, 0.5), dweight_error(V * H, N * kF32), dl(V), dl_error(V);
  for (int64_t n = 0; n < N; ++n) {
    logit_gradient_f64(p, n, dl, dl_error);
    Row dhidden(H), dhidden_error(H);
    for (int64_t v = 0; v < V; ++v)
      for (int64_t h = 0; h < H; ++h) {  // sums of V and of N terms in f32
        dhidden[h] += dl[v] * at(weight, v, h);
        dhidden_error[h] += (dl_error[v] + V * kF32 * std::abs(dl[v])) * std::abs(at(weight, v, h));
        dweight[v * H + h] += dl[v] * at(hidden, n, h);
        dweight_error[v * H + h] += (dl_error[v] + N * kF32 * std::abs(dl[v])) * std::abs(at(hidden, n, h));
      }
    for (int64_t h = 0; h < H; ++h)
      ASSERT_NEAR(at(p.dhidden, n, h), dhidden[h], dhidden_error[h] + unit_roundoff(p.c.dtype) * std::abs(dhidden[h]))
          << n << " " << h;
  }
  for (int64_t i = 0; i < V * H; ++i) ASSERT_NEAR(p.dweight.as<float>()[i], dweight[i], dweight_error[i]) << i;
}

class HeadLossTest : public testing::TestWithParam<Case> {};

// Oracle: the losses and their textbook gradients over full logits in f64.
TEST_P(HeadLossTest, MatchesFullLogits) {
  Problem p(GetParam());
  p.run();
  expect_losses(p);
  expect_gradients(p);
  EXPECT_EQ(p.ctx.scratch.used_bytes(), 0);
}

constexpr DType F = DType::f32, B = DType::bf16;
constexpr int64_t kWide = 8 << 20, kSmall = 8 << 12, kTiny = 1;  // tile_bytes
INSTANTIATE_TEST_SUITE_P(Shapes, HeadLossTest,
                         testing::Values(Case{1, 8, 1, 8, F, F, kWide}, Case{1, 16, 65, 16, F, F, kWide},
                                         Case{0, 8, 33, 8, F, F, kWide}, Case{33, 16, 65, 24, F, B, kWide},
                                         Case{33, 16, 65, 24, B, F, kWide}, Case{19, 8, 65, 8, F, F, kTiny},
                                         Case{21, 8, 513, 8, F, F, kSmall}, Case{21, 16, 1537, 12, F, F, kSmall},
                                         Case{21, 16, 1537, 12, B, B, kSmall}, Case{3, 16, 2048, 8, B, F, kTiny},
                                         Case{70, 8, 1300, 8, F, F, kWide}));

// Oracle: central differences of the f64 objective, so that the formulas in MatchesFullLogits are themselves checked.
TEST(HeadLoss, GradientMatchesFiniteDifferences) {
  Problem p({4, 5, 23, 7, F, F, kWide});
  p.run();
  const auto expect_slope = [&](Tensor x, Tensor dx, double base) {
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = 0; c < x.cols; ++c) {
        float& value = x.row<float>(r)[c];
        const float kept = value;
        value = kept + 0x1p-8f;
        const double above = objective_f64(p.in, p.objective), up = value;
        value = kept - 0x1p-8f;
        const double slope = (above - objective_f64(p.in, p.objective)) / (up - value);
        value = kept;
        // step^2 / 6 times the third derivative (below 4 here, the weight's cube times hidden values up to 3)
        EXPECT_NEAR(at(dx, r, c) - base, slope, 0x1p-16 / 6 * 4 + 64 * kF32) << r << " " << c;
      }
  };
  expect_slope(p.in.student.hidden, p.dhidden, 0);
  expect_slope(p.in.student.weight.values, p.dweight, 0.5);
}

TEST(HeadLoss, HandValues) {
  // logits (ln 3, 0): p = (3/4, 1/4); the teacher's are (0, 0)
  Context ctx({.threads = 1});
  const std::vector<float> hidden = {1}, head = {std::log(3.0f), 0}, teacher = {0, 0};
  const std::vector<int32_t> targets = {1};
  std::vector<float> ce(1), kl(1), dhidden(1), dweight(2);
  const HeadInputs in{.student = {view_of(hidden.data(), 1, 1), view_of(head.data(), 2, 1)},
                      .teacher = Head{view_of(hidden.data(), 1, 1), view_of(teacher.data(), 2, 1)},
                      .targets = targets};
  head_loss_forward_backward({.cross_entropy = view_of(ce.data(), 1, 1), .kl = view_of(kl.data(), 1, 1)},
                             view_of(dhidden.data(), 1, 1), view_of(dweight.data(), 2, 1), in,
                             {.cross_entropy_scale = 1}, ctx);
  EXPECT_FLOAT_EQ(ce[0], std::log(4.0f));
  EXPECT_FLOAT_EQ(kl[0], 0.5f * std::log(4.0f / 3));  // ln(1/2) - ln(3/4) / 2 - ln(1/4) / 2
  EXPECT_FLOAT_EQ(dweight[0], 0.75f);
  EXPECT_FLOAT_EQ(dweight[1], -0.75f);
  EXPECT_FLOAT_EQ(dhidden[0], 0.75f * std::log(3.0f));
}

// The sums are the same whatever the chunks; the logits are, too, here where each is exact.
TEST(HeadLoss, ChunksDoNotChangeTheResult) {
  Problem whole({16, 8, 2049, 8, F, F, kWide}), chunked({16, 8, 2049, 8, F, F, 8 * 512 * 8});
  for (Problem* p : {&whole, &chunked}) {
    for (const Head& head : {p->in.student, *p->in.teacher})
      for (const Tensor& x : {head.hidden, head.weight.values})
        for (int64_t r = 0; r < x.rows; ++r)
          for (int64_t c = 0; c < x.cols; ++c) x.row<float>(r)[c] = std::round(4 * x.row<float>(r)[c]) / 4;
    p->run();
  }
  EXPECT_GT(chunked.ctx.matmul_calls, 10 * whole.ctx.matmul_calls);
  EXPECT_EQ(whole.ctx.matmul_calls, 4);  // two products of logits, two of gradients; none twice
  for (int64_t n = 0; n < 16; ++n) {
    EXPECT_EQ(whole.out.cross_entropy.as<float>()[n], chunked.out.cross_entropy.as<float>()[n]);
    EXPECT_EQ(whole.out.kl.as<float>()[n], chunked.out.kl.as<float>()[n]);
    EXPECT_EQ(whole.out.greedy.as<int32_t>()[n], chunked.out.greedy.as<int32_t>()[n]);
    EXPECT_EQ(whole.out.teacher_rank.as<int32_t>()[n], chunked.out.teacher_rank.as<int32_t>()[n]);
    for (int64_t h = 0; h < 8; ++h)  // another order of 2049 additions
      EXPECT_NEAR(at(whole.dhidden, n, h), at(chunked.dhidden, n, h), 1e-6);
  }
}

TEST(HeadLoss, StaysWithinItsTile) {
  Problem p({200, 4, 5000, 4, B, F, 100'000});
  p.run();
  const int64_t states = 200 * 256, dhidden = 200 * 4 * 4, alignment = 5 * 64;
  EXPECT_LE(p.ctx.scratch.peak_bytes(), 100'000 + states + dhidden + alignment);
}

TEST(HeadLoss, ForwardAloneGivesTheSameLosses) {
  Problem p({21, 16, 1537, 12, F, F, kSmall});
  p.run();
  const HeadLosses alone = {p.result(F), p.result(F), p.result(DType::i32), p.result(DType::i32)};
  head_loss_forward(alone, p.in, p.ctx);
  for (int64_t n = 0; n < p.c.N; ++n) {
    EXPECT_EQ(alone.cross_entropy.as<float>()[n], p.out.cross_entropy.as<float>()[n]);
    EXPECT_EQ(alone.kl.as<float>()[n], p.out.kl.as<float>()[n]);
    EXPECT_EQ(alone.greedy.as<int32_t>()[n], p.out.greedy.as<int32_t>()[n]);
    EXPECT_EQ(alone.teacher_rank.as<int32_t>()[n], p.out.teacher_rank.as<int32_t>()[n]);
  }
}

// Language-model training and evaluation: no teacher, a frozen head.
TEST(HeadLoss, TeacherAndHeadGradientAreOptional) {
  Problem p({21, 16, 130, 12, F, F, kWide});
  p.objective.kl_scale = 0;
  p.run();
  const Tensor ce = p.result(F), dhidden = p.arena.tensor(p.c.N, p.c.H, F);
  p.in.teacher.reset();
  head_loss_forward_backward({.cross_entropy = ce}, dhidden, {}, p.in, p.objective, p.ctx);
  for (int64_t n = 0; n < p.c.N; ++n) {
    EXPECT_EQ(ce.as<float>()[n], p.out.cross_entropy.as<float>()[n]);
    for (int64_t h = 0; h < p.c.H; ++h) EXPECT_EQ(at(dhidden, n, h), at(p.dhidden, n, h));
  }
}

TEST(HeadLoss, AModelComparedWithItselfHasNoDivergence) {
  for (const DType dtype : {F, B}) {
    Problem p({21, 16, 1537, 16, dtype, dtype, kSmall});
    p.in.teacher = p.in.student;
    p.objective.cross_entropy_scale = 0;
    p.run();
    for (int64_t n = 0; n < p.c.N; ++n) {
      EXPECT_EQ(p.out.kl.as<float>()[n], 0);
      EXPECT_EQ(p.out.teacher_rank.as<int32_t>()[n], 0);
      // the rounding of one of p and p_t, which add up to 1, times a weight below 2
      for (int64_t h = 0; h < p.c.H; ++h) EXPECT_NEAR(at(p.dhidden, n, h), 0, 2 * kF32);
    }
  }
}

TEST(HeadLoss, EqualLogitsPreferTheLowerId) {
  Problem p({3, 4, 1200, 4, F, F, kTiny});
  for (int64_t v = 0; v < p.c.V; ++v)  // every row of the head the same: all logits are equal
    for (int64_t h = 0; h < 4; ++h) p.in.student.weight.values.row<float>(v)[h] = float(h);
  const Tensor teacher = p.in.teacher->weight.values;
  fill_zero(teacher);
  for (int64_t n = 0; n < 3; ++n) p.in.teacher->hidden.row<float>(n)[0] = n == 0 ? -1 : 1;
  teacher.row<float>(9)[0] = teacher.row<float>(700)[0] = 2;     // the best for tokens 1 and 2
  for (int64_t v = 0; v < 5; ++v) teacher.row<float>(v)[0] = 1;  // 5 is the first of the best for token 0
  for (int64_t h = 1; h < 4; ++h)
    for (int64_t n = 0; n < 3; ++n) p.in.teacher->hidden.row<float>(n)[h] = 0;
  head_loss_forward(p.out, p.in, p.ctx);
  EXPECT_THAT(std::vector<int32_t>(p.out.greedy.as<int32_t>(), p.out.greedy.as<int32_t>() + 3),
              testing::ElementsAre(0, 0, 0));
  EXPECT_THAT(std::vector<int32_t>(p.out.teacher_rank.as<int32_t>(), p.out.teacher_rank.as<int32_t>() + 3),
              testing::ElementsAre(5, 9, 9));
  teacher.row<float>(9)[0] = 0;  // 700 is left, far down
  head_loss_forward(p.out, p.in, p.ctx);
  EXPECT_EQ(p.out.teacher_rank.as<int32_t>()[1], kHeadTopTokens);
}

TEST(HeadLoss, HugeLogitsStayFinite) {
  Problem p({21, 16, 1537, 16, F, F, kSmall}, 1e4f);
  p.run();
  double largest = 0;
  for (double l : logits_f64(p.in.student, 0)) largest = std::max(largest, std::abs(l));
  EXPECT_GT(largest, 1e4);
  expect_losses(p);
  for (int64_t i = 0; i < p.dhidden.size(); ++i) ASSERT_TRUE(std::isfinite(p.dhidden.as<float>()[i]));
  for (int64_t i = 0; i < p.dweight.size(); ++i) ASSERT_TRUE(std::isfinite(p.dweight.as<float>()[i]));
}

TEST(HeadLoss, NotANumberIsNotHidden) {
  Problem p({2, 8, 600, 8, F, F, kWide});
  p.in.student.hidden.row<float>(1)[3] = NAN;
  p.weights = {1, 1};
  p.run();
  EXPECT_TRUE(std::isfinite(p.out.cross_entropy.as<float>()[0]));
  EXPECT_TRUE(std::isnan(p.out.cross_entropy.as<float>()[1]));
  EXPECT_TRUE(std::isnan(p.out.kl.as<float>()[1]));
  EXPECT_TRUE(std::isnan(p.dhidden.row<float>(1)[0]));
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(HeadLoss, RefusesBadInput) {
  using testing::HasSubstr;
  Problem p({3, 8, 33, 8, F, F, kWide});
  const auto message = [&] { return message_of([&] { p.run(); }); };
  p.targets[2] = 33;
  EXPECT_THAT(message(), HasSubstr("target 33 of token 2: the vocabulary has 33 entries"));
  p.targets[2] = 32;
  EXPECT_EQ(message(), "no error");
  p.in.targets = p.in.targets.first(2);
  EXPECT_THAT(message(), HasSubstr("2 targets for 3 tokens"));
  p.in.targets = {};
  EXPECT_THAT(message(), HasSubstr("cross_entropy needs targets"));
  p.out.cross_entropy = {};
  EXPECT_THAT(message(), HasSubstr("cross-entropy needs targets"));
  p.in.targets = p.targets;
  p.objective.weights = p.objective.weights.first(1);
  EXPECT_THAT(message(), HasSubstr("1 weights for 3 tokens"));
  p.objective.weights = p.weights;
  const Head teacher = *p.in.teacher;
  p.in.teacher->weight = teacher.weight.values.row_range(0, 32);
  EXPECT_THAT(message(), HasSubstr("teacher: hidden (3, 8) f32, head (32, 8) f32"));
  p.in.teacher.reset();
  EXPECT_THAT(message(), HasSubstr("kl needs a teacher"));
  p.in.teacher = teacher;
  p.out.greedy.dtype = F;
  EXPECT_THAT(message(), HasSubstr("greedy is (1, 3) f32; must be (1, 3) i32"));
}

}  // namespace
}  // namespace tangram
