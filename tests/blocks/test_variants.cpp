// The contract of blocks/variant.h, checked on every registered variant: a new file in blocks/variants/ is tested
// before anybody writes a test for it.

#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "blocks/block.h"
#include "blocks/kv_cache.h"
#include "blocks/model.h"
#include "kernels/elementwise.h"
#include "kernels/random.h"
#include "tests/own_sequences.h"

namespace tangram {
namespace {

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 32, c.hidden_size = 48, c.intermediate_size = 40, c.num_hidden_layers = 1;
  c.num_attention_heads = 6, c.num_key_value_heads = 2, c.head_dim = 8, c.max_position_embeddings = 64;
  return c;
}

// Every variant at every one of a few sizes that it accepts.
std::vector<Choice> all_choices(const ModelConfig& config) {
  std::vector<Choice> choices;
  for (const Variant* variant : all_variants()) {
    if (!variant->sized) {
      choices.push_back({variant, 0});
      continue;
    }
    for (int64_t size : {1, 2, 3, 8, 40}) try {
        variant->check_size(config, size);
        choices.push_back({variant, size});
      } catch (const Error&) {
      }
  }
  return choices;
}

void fill_normal(Tensor x, double deviation, uint64_t stream) {
  dispatch(x.dtype, [&]<class T>() {
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = 0; c < x.cols; ++c)
        x.row<T>(r)[c] = T(float(deviation * random_normal(7, stream, uint64_t(r * x.cols + c))));
  });
}

// One subblock with random weights and everything to run it on one packed batch.
struct Bench {
  ModelConfig config = small_config();
  Context ctx{Context::Options{.threads = 2}};
  Arena arena{64 << 20};
  DType dtype;
  SubblockWeights weights;
  OwnSequences batch;
  Tensor residual, y;
  SubblockActivations saved;

  Bench(const Choice& choice, DType t, std::vector<int32_t> lengths)
      : dtype(t), weights(make_weights(choice, config, t, arena)), batch(config, lengths) {
    const int64_t N = batch.tokens();
    residual = arena.tensor(N, config.hidden_size, t);
    y = arena.tensor(N, config.hidden_size, t);
    saved = make_activations(choice, config, N, t, arena);
    fill_normal(residual, 1, 1);
    if (weights.norm.data) {
      fill_normal(weights.norm, 0.2, 2);
      dispatch(t, [&]<class T>() {
        for (int64_t i = 0; i < weights.norm.cols; ++i) weights.norm.as<T>()[i] = T(1 + float(weights.norm.as<T>()[i]));
      });
    }
    for (size_t i = 0; i < weights.params.size(); ++i)
      fill_normal(weights.params[i].values, 1 / std::sqrt(double(weights.params[i].values.cols)), 3 + i);
  }
  void forward() { subblock_forward(y, saved, residual, weights, config, batch.view(), ctx); }

  // <y, g> in f64: the scalar whose gradient is checked.
  double loss(Tensor g) {
    forward();
    double sum = 0;
    for (int64_t n = 0; n < y.rows; ++n)
      for (int64_t c = 0; c < y.cols; ++c) sum += double(y.row<float>(n)[c]) * double(g.row<float>(n)[c]);
    return sum;
  }
};

class VariantContract : public testing::TestWithParam<size_t> {
 protected:
  Choice choice() const { return all_choices(small_config())[GetParam()]; }
};

// d loss / d x along a random direction, by central differences, against <gradient, direction>. The loss is a sum of
// n f32 values of order 1, each good to some 1e-6; divided by the step of 1e-2 that leaves 1e-4 sqrt(n), and the third
// derivative contributes of the order of step^2.
void expect_directional_derivative(Bench& bench, Tensor x, Tensor gradient, Tensor g, const std::string& what) {
  std::vector<float> direction(static_cast<size_t>(x.size()));
  double analytic = 0, gradient_norm = 0;
  for (int64_t r = 0; r < x.rows; ++r)
    for (int64_t c = 0; c < x.cols; ++c) {
      float& u = direction[size_t(r * x.cols + c)];
      const double d = gradient.row<float>(r)[c];
      // Half along the gradient, half at random: a wrong scale and a wrong direction both show.
      u = float(random_normal(11, 5, uint64_t(r * x.cols + c)));
      gradient_norm += d * d;
      analytic += d * double(u);
    }
  const auto shift = [&](double step) {
    for (int64_t r = 0; r < x.rows; ++r)
      for (int64_t c = 0; c < x.cols; ++c) x.row<float>(r)[c] += float(step) * direction[size_t(r * x.cols + c)];
  };
  const double step = 1e-2 / std::sqrt(double(x.cols));
  std::vector<float> original(static_cast<size_t>(x.size()));
  copy(view_of(original.data(), x.rows, x.cols), x);
  shift(step);
  const double above = bench.loss(g);
  copy(x, view_of(original.data(), x.rows, x.cols));
  shift(-step);
  const double below = bench.loss(g);
  copy(x, view_of(original.data(), x.rows, x.cols));
  const double numeric = (above - below) / (2 * step);
  EXPECT_NEAR(numeric, analytic, 5e-3 * std::sqrt(gradient_norm) + 1e-3) << what;
}

TEST_P(VariantContract, GradientEqualsFiniteDifferences) {
  const Choice c = choice();
  if (c.variant->no_op) GTEST_SKIP() << "a no_op has no gradient";
  Bench bench(c, DType::f32, {5, 1, 7});
  const Tensor g = bench.arena.tensor(bench.y.rows, bench.y.cols, DType::f32);
  fill_normal(g, 1, 99);
  SubblockGrads grads = make_grads(c, bench.config, bench.arena);  // fresh pages: zero
  const Tensor dresidual = bench.arena.tensor(g.rows, g.cols, DType::f32);
  bench.forward();
  subblock_backward(dresidual, grads, g, bench.residual, bench.saved, bench.weights, bench.config, bench.batch.view(),
                    bench.ctx);
  const auto specs = c.variant->params({bench.config, c.size});
  for (size_t i = 0; i < specs.size(); ++i)
    expect_directional_derivative(bench, bench.weights.params[i].values, grads.params[i], g, specs[i].name);
  expect_directional_derivative(bench, bench.weights.norm, grads.norm, g, "norm");
  expect_directional_derivative(bench, bench.residual, dresidual, g, "input");
}

TEST_P(VariantContract, GradientsAccumulate) {
  const Choice c = choice();
  if (c.variant->no_op) GTEST_SKIP() << "a no_op has no gradient";
  Bench bench(c, DType::f32, {4, 3});
  const Tensor g = bench.arena.tensor(bench.y.rows, bench.y.cols, DType::f32);
  fill_normal(g, 1, 99);
  SubblockGrads once = make_grads(c, bench.config, bench.arena), twice = make_grads(c, bench.config, bench.arena);
  bench.forward();
  const auto backward = [&](SubblockGrads& grads) {
    subblock_backward({}, grads, g, bench.residual, bench.saved, bench.weights, bench.config, bench.batch.view(),
                      bench.ctx);
  };
  backward(once), backward(twice), backward(twice);
  for (size_t i = 0; i < once.params.size(); ++i)
    for (int64_t e = 0; e < once.params[i].size(); ++e)
      ASSERT_NEAR(twice.params[i].as<float>()[e], 2 * once.params[i].as<float>()[e],
                  1e-4 * (1 + std::abs(once.params[i].as<float>()[e])));
}

// Largest |a - b| relative to the largest |b|.
double relative_difference(Tensor a, Tensor b) {
  double difference = 0, scale = 0;
  dispatch(a.dtype, [&]<class T>() {
    for (int64_t r = 0; r < a.rows; ++r)
      for (int64_t c = 0; c < a.cols; ++c) {
        const double x = float(a.row<T>(r)[c]), z = float(b.row<T>(r)[c]);
        difference = std::max(difference, std::abs(x - z)), scale = std::max(scale, std::abs(z));
      }
  });
  return scale > 0 ? difference / scale : difference;
}

// Runs the sequences through the cache in chunks of at most `chunk` tokens and compares with the training forward.
void expect_infer_equals_forward(const Choice& choice, DType dtype, int32_t chunk, double tolerance) {
  const std::vector<int32_t> lengths{9, 1, 4};
  Bench bench(choice, dtype, lengths);
  bench.forward();
  KvCache cache(
      {{choice.variant->subblock == Subblock::attention ? choice : teacher_choice(Subblock::attention, bench.config),
        teacher_choice(Subblock::ffn, bench.config)}},
      bench.config, int64_t(lengths.size()), 16, dtype, bench.arena);
  const Tensor result = bench.arena.tensor(bench.y.rows, bench.y.cols, dtype);
  for (int32_t first = 0; first < 9; first += chunk) {
    std::vector<int32_t> past, now;
    std::vector<Tensor> from, to;
    int32_t row = 0;
    for (int32_t length : lengths) {
      const int32_t begin = std::min(first, length), count = std::min(chunk, length - begin);
      past.push_back(begin), now.push_back(count);
      from.push_back(bench.residual.row_range(row + begin, count)), to.push_back(result.row_range(row + begin, count));
      row += length;
    }
    const OwnSequences batch(bench.config, now, past);
    ArenaScope scope(bench.arena);
    const Tensor x = bench.arena.tensor(batch.tokens(), bench.config.hidden_size, dtype);
    int64_t at = 0;
    for (const Tensor& part : from) copy(x.row_range(at, part.rows), part), at += part.rows;
    subblock_infer(x, bench.weights, bench.config, cache.layer(0, bench.ctx), batch.view(), bench.ctx);
    at = 0;
    for (const Tensor& part : to) copy(part, x.row_range(at, part.rows)), at += part.rows;
  }
  add(bench.y, bench.y, bench.residual, bench.ctx);
  EXPECT_LE(relative_difference(result, bench.y), tolerance) << choice.name() << " in chunks of " << chunk;
}

TEST_P(VariantContract, DecodeTokenByTokenEqualsForward) {
  expect_infer_equals_forward(choice(), DType::f32, 1, 1e-5);
  expect_infer_equals_forward(choice(), DType::bf16, 1, 2e-2);
}

TEST_P(VariantContract, PrefillInChunksEqualsForward) {
  for (int32_t chunk : {3, 9}) {
    expect_infer_equals_forward(choice(), DType::f32, chunk, 1e-5);
    expect_infer_equals_forward(choice(), DType::bf16, chunk, 2e-2);
  }
}

TEST_P(VariantContract, CostEqualsWhatIsAllocated) {
  const Choice c = choice();
  const ModelConfig config = small_config();
  Arena arena = Arena::planner();
  int64_t elements = 0;
  const SubblockWeights weights = make_weights(c, config, DType::f32, arena);
  for (const Weight& w : weights.params) elements += w.values.size();
  EXPECT_EQ(elements, parameter_count(c, config));
  EXPECT_EQ(weights.norm.size(), c.variant->no_op ? 0 : config.hidden_size);

  Arena of_cache = Arena::planner();
  const BlockChoice block{
      c.variant->subblock == Subblock::attention ? c : parse_choice(Subblock::attention, "no_op", config),
      parse_choice(Subblock::ffn, "no_op", config)};
  const KvCache cache({block}, config, 2, 64, DType::bf16, of_cache);
  EXPECT_EQ(of_cache.used_bytes(), KvCache::bytes({block}, config, 2, 64, DType::bf16));
}

TEST_P(VariantContract, NameIsParsedBack) {
  const Choice c = choice();
  EXPECT_EQ(parse_choice(c.variant->subblock, c.name(), small_config()), c);
}

TEST_P(VariantContract, ResultDoesNotDependOnOtherSequences) {
  const Choice c = choice();
  Bench alone(c, DType::f32, {6}), together(c, DType::f32, {6, 3});
  copy(together.residual.row_range(0, 6), alone.residual);
  alone.forward(), together.forward();
  EXPECT_LE(relative_difference(together.y.row_range(0, 6), alone.y), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(All, VariantContract, testing::Range<size_t>(0, all_choices(small_config()).size()),
                         [](const auto& parameter) {
                           const Choice c = all_choices(small_config())[parameter.param];
                           return std::string(name_of(c.variant->subblock)) + "_" + c.name();
                         });

TEST(TeacherChoice, StartsAsAnExactCopy) {
  for (Subblock subblock : {Subblock::attention, Subblock::ffn})
    for (Init method : {Init::prune, Init::least_squares}) {
      Bench teacher(teacher_choice(subblock, small_config()), DType::f32, {6, 2});
      Bench child(teacher.weights.choice, DType::f32, {6, 2});
      for (const Weight& w : child.weights.params) fill_zero(w.values);
      child.weights.choice.variant->init_from_teacher(child.weights.params, teacher.weights.params,
                                                      {child.config, child.weights.choice.size}, {method, 0, nullptr},
                                                      child.ctx);
      teacher.forward(), child.forward();
      EXPECT_EQ(std::memcmp(teacher.y.data, child.y.data, size_t(child.y.bytes())), 0);
    }
}

TEST(Window, AsWideAsTheSequenceIsTheTeacher) {
  Bench teacher(teacher_choice(Subblock::attention, small_config()), DType::f32, {8});
  Bench child(parse_choice(Subblock::attention, "window_8", small_config()), DType::f32, {8});
  child.weights.choice.variant->init_from_teacher(child.weights.params, teacher.weights.params, {child.config, 8},
                                                  {Init::prune, 0, nullptr}, child.ctx);
  teacher.forward(), child.forward();
  EXPECT_LE(relative_difference(child.y, teacher.y), 1e-6);
}

// Oracle: the definition of mean pooling, by hand on the teacher's heads.
TEST(Gqa, StartsFromTheMeanOfTheHeads) {
  Bench teacher(teacher_choice(Subblock::attention, small_config()), DType::f32, {2});
  Bench child(parse_choice(Subblock::attention, "gqa_1", small_config()), DType::f32, {2});
  child.weights.choice.variant->init_from_teacher(child.weights.params, teacher.weights.params, {child.config, 1},
                                                  {Init::prune, 0, nullptr}, child.ctx);
  const Tensor pooled = child.weights.params[1].values, heads = teacher.weights.params[1].values;
  for (int64_t r = 0; r < 8; ++r)
    for (int64_t c = 0; c < 48; ++c)
      ASSERT_FLOAT_EQ(pooled.row<float>(r)[c], (heads.row<float>(r)[c] + heads.row<float>(r + 8)[c]) / 2);
}

TEST(ParseChoice, RatiosRoundToServableWidths) {
  ModelConfig config = small_config();
  config.intermediate_size = 14336;
  EXPECT_EQ(parse_choice(Subblock::ffn, "0.5", config).name(), "ffn_7168");
  EXPECT_EQ(parse_choice(Subblock::ffn, "0.1", config).name(), "ffn_1536");  // 1433.6 / 256 = 5.6
  EXPECT_EQ(parse_choice(Subblock::ffn, "1.0", config).name(), "ffn_14336");
  config.intermediate_size = 256;
  EXPECT_EQ(parse_choice(Subblock::ffn, "0.75", config).name(), "ffn_192");
  EXPECT_EQ(parse_choice(Subblock::ffn, "0.1", config).name(), "ffn_32");  // 1.6 sixteens
  config.intermediate_size = 172;
  EXPECT_EQ(parse_choice(Subblock::ffn, "0.5", config).name(), "ffn_88");  // 21.5 rounds up to 22 fours
}

TEST(ParseChoice, RefusesWithTheKnownNames) {
  const ModelConfig config = small_config();
  const auto message = [&](Subblock s, const char* text) {
    try {
      parse_choice(s, text, config);
    } catch (const Error& e) {
      EXPECT_EQ(e.failure, Failure::bad_input);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(Subblock::ffn, "lineer"),
            "no ffn variant 'lineer'; did you mean 'linear'? known: linear, no_op, ffn_<size>, a ratio such as 0.5");
  EXPECT_NE(message(Subblock::attention, "gqa_3").find("must divide the teacher's 2"), std::string::npos);
  EXPECT_NE(message(Subblock::attention, "gqa_x").find("no attention variant"), std::string::npos);
  EXPECT_NE(message(Subblock::ffn, "ffn_41").find("from 1 to the teacher's 40"), std::string::npos);
  EXPECT_NE(message(Subblock::ffn, "1.5").find("at most 1"), std::string::npos);
}

}  // namespace
}  // namespace tangram
