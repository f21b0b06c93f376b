#include "distill/gkd.h"

#include <gtest/gtest.h>

#include "kernels/elementwise.h"

#include "tests/distill/small_batch.h"

namespace tangram {
namespace {

Model irregular_student(const Model& teacher) {
  const ModelConfig& config = teacher.config;
  const auto a = [&](const char* text) { return parse_choice(Subblock::attention, text, config); };
  const auto f = [&](const char* text) { return parse_choice(Subblock::ffn, text, config); };
  Model student = make_model(config, {{a("gqa_1"), f("ffn_8")}, {a("no_op"), f("linear")}, {a("linear"), f("no_op")}},
                             teacher.dtype);
  uint64_t stream = 50;
  for (const NamedTensor& t : named_tensors(student)) {
    for (int64_t i = 0; i < t.tensor.size(); ++i)
      t.tensor.as<float>()[i] = float(t.tensor.rows == 1) + float(0.15 * random_normal(4, stream, uint64_t(i)));
    ++stream;
  }
  return student;
}

// With a learning rate of 0 a step only measures; with beta1 = 0 and no clipping, moment 1 is then the gradient.
GkdOptions measuring(GkdLossWeights loss, int64_t micro_batches = 1) {
  GkdOptions options;
  options.loss = loss;
  options.optimiser.beta1 = 0;
  options.optimiser.gradient_clip = 0;
  options.schedule.learning_rate_peak = 0;
  options.batch_tokens = kSmallBatchTokens;
  options.micro_batches = micro_batches;
  return options;
}

Batch weighted_batch(uint64_t stream) {
  Batch batch = small_batch(stream);
  for (size_t n = 0; n < batch.tokens.size(); ++n) batch.weights.push_back(n % 3 == 0 ? 1.0f : 0.25f);
  return batch;
}

double total(const GkdLosses& l, const GkdLossWeights& w) {
  return w.cosine * l.cosine + w.kl * l.kl + w.cross_entropy * l.cross_entropy;
}

// Central differences of the reported loss along a random direction of each tensor. The loss is a mean of f32 terms of
// order 1, good to 1e-6; over a step of 1e-3 that is 1e-3 of noise, and the step squared adds less.
void expect_gradient(GkdLossWeights loss) {
  Context ctx(Context::Options{.threads = 2});
  const Model teacher = small_teacher();
  Model student = irregular_student(teacher);
  GkdTrainer trainer(student, &teacher, measuring(loss), ctx);
  const std::vector<Batch> batch{weighted_batch(1)};
  trainer.step(batch);
  std::vector<std::vector<float>> gradients;
  for (const NamedTensor& t : trainer.state())
    if (t.name.ends_with("/moment1"))
      gradients.emplace_back(t.tensor.as<float>(), t.tensor.as<float>() + t.tensor.size());
  const std::vector<NamedTensor> weights = named_tensors(student);
  ASSERT_EQ(weights.size(), gradients.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    const Tensor w = weights[i].tensor;
    const std::vector<float> original(w.as<float>(), w.as<float>() + w.size());
    double analytic = 0, norm = 0;
    for (int64_t e = 0; e < w.size(); ++e) {
      const double g = gradients[i][size_t(e)];
      analytic += g * random_normal(8, i, uint64_t(e)), norm += g * g;
    }
    const double step = 4e-3 / std::sqrt(double(w.cols));
    const auto at = [&](double s) {
      for (int64_t e = 0; e < w.size(); ++e)
        w.as<float>()[e] = original[size_t(e)] + float(s * random_normal(8, i, uint64_t(e)));
      return total(trainer.step(batch), loss);
    };
    const double numeric = (at(step) - at(-step)) / (2 * step);
    at(0);
    EXPECT_NEAR(numeric, analytic, 2e-2 * std::sqrt(norm) + 3e-3) << weights[i].name;
  }
}

TEST(Gkd, GradientOfTheCosineLoss) { expect_gradient({.cosine = 1, .kl = 0, .cross_entropy = 0}); }
TEST(Gkd, GradientOfTheKlLoss) { expect_gradient({.cosine = 0, .kl = 1, .cross_entropy = 0}); }
TEST(Gkd, GradientOfTheLanguageModelLoss) { expect_gradient({.cosine = 0, .kl = 0, .cross_entropy = 1}); }
TEST(Gkd, GradientOfTheirSum) { expect_gradient({.cosine = 0.5, .kl = 2, .cross_entropy = 0.3}); }

TEST(Gkd, TeacherItselfHasNoDistillationLoss) {
  Context ctx(Context::Options{.threads = 2});
  const Model teacher = small_teacher();
  Model student = copy_model(teacher, DType::f32);
  GkdTrainer trainer(student, &teacher, measuring({}), ctx);
  const GkdLosses losses = trainer.step(std::vector<Batch>{small_batch(1)});
  EXPECT_NEAR(losses.cosine, 0, 1e-6);
  EXPECT_NEAR(losses.kl, 0, 1e-6);
  EXPECT_GT(losses.cross_entropy, 1);
}

// Oracle: residual streams computed block by block, and the cosine by its definition.
TEST(Gkd, ComparesAShorterStudentWithTheLayersItsBlocksEndWith) {
  Context ctx(Context::Options{.threads = 2});
  const Model teacher = small_teacher();
  const Batch batch = small_batch(1);
  const SequenceBatch sequences(teacher.config, batch.lengths, {}, ctx.scratch, ctx);
  const auto streams = [&](const Model& model) {
    std::vector<Tensor> behind;
    Tensor x = ctx.scratch.tensor(kSmallBatchTokens, model.config.hidden_size, DType::f32);
    embed(x, model, batch.tokens, ctx);
    for (const BlockWeights& block : model.blocks) {
      behind.push_back(ctx.scratch.tensor(x.rows, x.cols, DType::f32));
      copy(behind.back(), x, ctx);
      x = behind.back();
      block_forward(x, block, model.config, sequences.view(), ctx);
    }
    return behind;
  };
  Model student = teacher;
  student.blocks.erase(student.blocks.begin() + 1);
  student.config.num_hidden_layers = 2;
  student = copy_model(student, DType::f32);
  const std::vector<Tensor> of_teacher = streams(teacher), of_student = streams(student);
  const auto distance = [&](Tensor a, Tensor b) {
    double mean = 0;
    for (int64_t n = 0; n < a.rows; ++n) {
      double dot = 0, aa = 0, bb = 0;
      for (int64_t h = 0; h < a.cols; ++h) {
        const double x = double(a.row<float>(n)[h]), y = double(b.row<float>(n)[h]);
        dot += x * y, aa += x * x, bb += y * y;
      }
      mean += (1 - dot / std::sqrt(aa * bb)) / double(a.rows);
    }
    return mean;
  };
  for (const std::vector<int64_t>& layers : {std::vector<int64_t>{0, 2}, {1, 2}}) {
    GkdOptions options = measuring({.cosine = 1, .kl = 0, .cross_entropy = 0});
    options.teacher_layers = layers;
    const double losses = GkdTrainer(student, &teacher, options, ctx).step(std::span(&batch, 1)).cosine;
    const double expected =
        distance(of_student[0], of_teacher[size_t(layers[0])]) + distance(of_student[1], of_teacher[size_t(layers[1])]);
    EXPECT_NEAR(losses, expected, 1e-5 * expected);
  }
  for (const std::vector<int64_t>& wrong : {std::vector<int64_t>{}, {0, 1}, {2, 2}, {2, 0}, {0, 3}, {0, 1, 2}}) {
    GkdOptions options = measuring({});
    options.teacher_layers = wrong;
    EXPECT_THROW(GkdTrainer(student, &teacher, options, ctx), Error) << wrong.size();
  }
}

TEST(Gkd, HealsAStudent) {
  Context ctx(Context::Options{.threads = 2});
  const Model teacher = small_teacher();
  Model student = irregular_student(teacher);
  GkdOptions options;
  options.batch_tokens = kSmallBatchTokens;
  options.schedule.learning_rate_peak = 1e-2;
  options.schedule.steps = 120;
  GkdTrainer trainer(student, &teacher, options, ctx);
  double first = 0, last = 0;
  for (int64_t i = 0; i < 120; ++i) {
    last = trainer.step(std::vector<Batch>{small_batch(uint64_t(i % 4))}).kl;
    if (i == 0) first = last;
  }
  EXPECT_LT(last, 0.5 * first);
}

TEST(Gkd, MicroBatchesOfOneSizeAverage) {
  Context ctx(Context::Options{.threads = 2});
  const Model teacher = small_teacher();
  Model a = irregular_student(teacher), b = irregular_student(teacher);
  GkdTrainer once(a, &teacher, measuring({}), ctx), twice(b, &teacher, measuring({}, 2), ctx);
  const GkdLosses x = once.step(std::vector<Batch>{small_batch(1)});
  const GkdLosses y = twice.step(std::vector<Batch>{small_batch(1), small_batch(1)});
  EXPECT_NEAR(x.kl, y.kl, 1e-6 * x.kl);
  EXPECT_NEAR(x.gradient_norm, y.gradient_norm, 1e-5 * x.gradient_norm);
}

TEST(Gkd, ResumedRunEndsWithTheSameBytes) {
  Context ctx(Context::Options{.threads = 2});
  const Model teacher = small_teacher();
  GkdOptions options;
  options.batch_tokens = kSmallBatchTokens;
  options.schedule.learning_rate_peak = 1e-3;
  options.schedule.steps = 6;
  const auto train = [](GkdTrainer& trainer, int64_t steps) {
    for (int64_t i = 0; i < steps; ++i) trainer.step(std::vector<Batch>{small_batch(uint64_t(trainer.steps_done()))});
  };
  Model whole = irregular_student(teacher), first = irregular_student(teacher), second = irregular_student(teacher);
  GkdTrainer of_whole(whole, &teacher, options, ctx), of_first(first, &teacher, options, ctx);
  train(of_whole, 6), train(of_first, 3);
  GkdTrainer of_second(second, &teacher, options, ctx);
  const auto from = of_first.state(), to = of_second.state();
  for (size_t i = 0; i < from.size(); ++i) copy(to[i].tensor, from[i].tensor);
  of_second.resume(3);
  train(of_second, 3);
  const auto x = named_tensors(whole), y = named_tensors(second);
  for (size_t i = 0; i < x.size(); ++i)
    EXPECT_EQ(std::memcmp(x[i].tensor.data, y[i].tensor.data, size_t(x[i].tensor.bytes())), 0) << x[i].name;
}

TEST(Gkd, RefusesDistillationWithoutATeacher) {
  Context ctx(Context::Options{.threads = 1});
  Model student = small_teacher();
  EXPECT_THROW(GkdTrainer(student, nullptr, measuring({}), ctx), Error);
}

}  // namespace
}  // namespace tangram
