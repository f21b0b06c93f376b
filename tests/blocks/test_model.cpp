#include "blocks/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/random.h"
#include "tests/own_sequences.h"

namespace tangram {
namespace {

ModelConfig small_config(bool tied) {
  ModelConfig c;
  c.vocab_size = 19, c.hidden_size = 32, c.intermediate_size = 24, c.num_hidden_layers = 4;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 8, c.max_position_embeddings = 64;
  c.tie_word_embeddings = tied;
  return c;
}

// Every kind of variant stands somewhere in it.
Architecture irregular(const ModelConfig& config) {
  const auto a = [&](const char* text) { return parse_choice(Subblock::attention, text, config); };
  const auto f = [&](const char* text) { return parse_choice(Subblock::ffn, text, config); };
  return {{a("gqa_2"), f("ffn_24")}, {a("linear"), f("no_op")}, {a("window_3"), f("ffn_7")}, {a("no_op"), f("linear")}};
}

Model random_model(const ModelConfig& config, const Architecture& architecture, DType dtype = DType::f32) {
  Model model = make_model(config, architecture, dtype);
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model)) {
    const bool is_norm = t.tensor.rows == 1;
    const double deviation = is_norm ? 0.1 : 1 / std::sqrt(double(t.tensor.cols));
    dispatch(dtype, [&]<class T>() {
      for (int64_t i = 0; i < t.tensor.size(); ++i)
        t.tensor.as<T>()[i] = T(float(is_norm) + float(deviation * random_normal(3, stream, uint64_t(i))));
    });
    ++stream;
  }
  return model;
}

struct Case {
  ModelConfig config;
  Model model;
  Context ctx{Context::Options{.threads = 2}};
  Arena arena{32 << 20};
  std::vector<int32_t> tokens{1, 5, 18, 5, 0, 7, 2, 2, 11};
  OwnSequences batch;

  explicit Case(bool tied)
      : config(small_config(tied)),
        model(random_model(config, irregular(config))),
        batch(config, std::vector<int32_t>{4, 5}) {}

  Tensor matrix(uint64_t stream) {
    const Tensor t = arena.tensor(int64_t(tokens.size()), config.hidden_size, DType::f32);
    for (int64_t i = 0; i < t.size(); ++i) t.as<float>()[i] = float(random_normal(5, stream, uint64_t(i)));
    return t;
  }
};

double dot(Tensor a, Tensor b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += double(a.as<float>()[i]) * double(b.as<float>()[i]);
  return sum;
}

// The scalar <hidden, g> + sum_l <output of block l, g_l>, differentiated by central differences in f64 along a random
// direction of each tensor. The tolerance: f32 rounding of a sum of n terms over the step, and the step squared.
void expect_gradients(bool tied) {
  Case c(tied);
  const Tensor g = c.matrix(0);
  std::vector<Tensor> g_layers;
  for (uint64_t l = 0; l < c.model.blocks.size(); ++l) g_layers.push_back(c.matrix(1 + l));
  ModelActivations activations = make_activations(c.model, int64_t(c.tokens.size()), c.arena);
  const auto loss = [&] {
    model_forward(activations, c.model, c.tokens, c.batch.view(), c.ctx);
    double sum = dot(activations.hidden, g);
    for (size_t l = 0; l < g_layers.size(); ++l) sum += dot(activations.residual[2 * l + 2], g_layers[l]);
    return sum;
  };
  ModelGrads grads = make_grads(c.model, c.arena);
  loss();
  const Tensor dhidden = c.matrix(0);
  model_backward(
      grads, dhidden, activations, c.model, c.tokens, c.batch.view(),
      [&](int64_t layer, Tensor dx) {
        for (int64_t i = 0; i < dx.size(); ++i) dx.as<float>()[i] += g_layers[size_t(layer)].as<float>()[i];
      },
      c.ctx);

  int64_t offset = 0;
  for (const NamedTensor& t : named_tensors(c.model)) {
    const float* gradient = grads.flat.as<float>() + offset;
    offset += t.tensor.size();
    if (t.name == "lm_head.weight") continue;  // the losses' gradient
    std::vector<float> original(t.tensor.as<float>(), t.tensor.as<float>() + t.tensor.size());
    double analytic = 0, norm = 0;
    const auto direction = [&](int64_t i) { return random_normal(9, 1, uint64_t(i)); };
    for (int64_t i = 0; i < t.tensor.size(); ++i)
      analytic += double(gradient[i]) * direction(i), norm += double(gradient[i]) * double(gradient[i]);
    const double step = 2e-3 / std::sqrt(double(t.tensor.cols));
    const auto shifted = [&](double s) {
      for (int64_t i = 0; i < t.tensor.size(); ++i)
        t.tensor.as<float>()[i] = original[size_t(i)] + float(s * direction(i));
      return loss();
    };
    const double numeric = (shifted(step) - shifted(-step)) / (2 * step);
    shifted(0);
    EXPECT_NEAR(numeric, analytic, 1e-2 * std::sqrt(norm) + 2e-2) << t.name;
  }
  EXPECT_EQ(offset, grads.flat.size());
}

TEST(Model, GradientsEqualFiniteDifferences) { expect_gradients(false); }
TEST(Model, GradientsEqualFiniteDifferencesWithATiedHead) { expect_gradients(true); }

TEST(Model, ForwardForTrainingEqualsForwardWithoutSaving) {
  Case c(false);
  ModelActivations activations = make_activations(c.model, int64_t(c.tokens.size()), c.arena);
  model_forward(activations, c.model, c.tokens, c.batch.view(), c.ctx);
  const Tensor hidden = c.matrix(0);
  model_hidden(hidden, c.model, c.tokens, c.batch.view(), c.ctx);
  EXPECT_EQ(std::memcmp(hidden.data, activations.hidden.data, size_t(hidden.bytes())), 0);
}

TEST(Model, PrefillThenDecodeEqualsForward) {
  Case c(false);
  const Tensor expected = c.matrix(0);
  model_hidden(expected, c.model, c.tokens, c.batch.view(), c.ctx);
  KvCache cache(c.model.architecture(), c.config, 2, 8, DType::f32, c.arena);
  // Two tokens of each sequence as prefill, then one by one; the second sequence is one longer.
  const std::vector<std::vector<int32_t>> rows{{0, 1, 4, 5}, {2, 6}, {3, 7}, {8}};
  const std::vector<std::vector<int32_t>> lengths{{2, 2}, {1, 1}, {1, 1}, {0, 1}}, past{{0, 0}, {2, 2}, {3, 3}, {4, 4}};
  for (size_t step = 0; step < rows.size(); ++step) {
    std::vector<int32_t> tokens;
    for (int32_t r : rows[step]) tokens.push_back(c.tokens[size_t(r)]);
    const OwnSequences batch(c.config, lengths[step], past[step]);
    const Tensor hidden = c.arena.tensor(batch.tokens(), c.config.hidden_size, DType::f32);
    model_infer(hidden, c.model, tokens, batch.view(), cache, c.ctx);
    for (size_t i = 0; i < rows[step].size(); ++i)
      for (int64_t h = 0; h < c.config.hidden_size; ++h)
        ASSERT_NEAR(hidden.row<float>(int64_t(i))[h], expected.row<float>(rows[step][i])[h], 2e-5) << "step " << step;
  }
}

TEST(Model, RefusesToOutgrowItsCache) {
  Case c(false);
  KvCache cache(c.model.architecture(), c.config, 1, 8, DType::f32, c.arena);
  const OwnSequences batch(c.config, std::vector<int32_t>{3}, std::vector<int32_t>{6});
  const Tensor hidden = c.arena.tensor(3, c.config.hidden_size, DType::f32);
  EXPECT_THROW(model_infer(hidden, c.model, std::vector<int32_t>{1, 2, 3}, batch.view(), cache, c.ctx), Error);
}

TEST(Model, CopyIsEqualAndIndependent) {
  Case c(true);
  const Model copied = copy_model(c.model, DType::f32);
  const auto a = named_tensors(c.model), b = named_tensors(copied);
  ASSERT_EQ(a.size(), b.size());
  std::set<std::string> names;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    EXPECT_TRUE(names.insert(a[i].name).second) << a[i].name;
    EXPECT_NE(a[i].tensor.data, b[i].tensor.data);
    EXPECT_EQ(std::memcmp(a[i].tensor.data, b[i].tensor.data, size_t(a[i].tensor.bytes())), 0);
  }
  EXPECT_EQ(copied.head.values.data, copied.embedding.values.data);
}

TEST(Model, NoOpHasNeitherNormNorParameters) {
  Case c(false);
  for (const NamedTensor& t : named_tensors(c.model)) {
    EXPECT_FALSE(t.name.starts_with("model.layers.3.self_attn") || t.name == "model.layers.3.input_layernorm.weight");
    EXPECT_FALSE(t.name.starts_with("model.layers.1.mlp") ||
                 t.name == "model.layers.1.post_attention_layernorm.weight");
  }
}

}  // namespace
}  // namespace tangram
