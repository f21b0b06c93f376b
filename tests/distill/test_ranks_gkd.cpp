#include <gtest/gtest.h>

#include "distill/gkd.h"
#include "kernels/elementwise.h"
#include "tests/distill/small_batch.h"
#include "tests/kernels/test_ranks.h"

namespace tangram {
namespace {

constexpr int64_t kMicroBatches = 4, kSteps = 3;

/// A student and the layers of a teacher of 6 that its blocks end with.
struct Student {
  const char* name;
  std::vector<std::pair<const char*, const char*>> blocks;  // attention, FFN
  std::vector<int64_t> teacher_layers;
  bool tied;
};

const Student kStudents[] = {
    // No attention where the embedding comes in, a linear FFN, a span of two layers.
    {"no_op_first",
     {{"no_op", "ffn_48"}, {"gqa_1", "linear"}, {"gqa_2", "ffn_24"}, {"linear", "ffn_8"}, {"gqa_4", "ffn_48"}},
     {0, 1, 3, 4, 5},
     true},
    // Different numbers of KV heads; the last block stands for two layers, and one block does nothing.
    {"span_last",
     {{"gqa_4", "ffn_16"}, {"no_op", "no_op"}, {"gqa_1", "ffn_48"}, {"gqa_2", "no_op"}, {"window_3", "ffn_40"}},
     {0, 1, 2, 3, 5},
     false},
    // As few blocks as the deepest grid has stages, each of another cost; spans at both ends.
    {"four_blocks",
     {{"gqa_2", "ffn_48"}, {"linear", "no_op"}, {"no_op", "linear"}, {"gqa_1", "ffn_32"}},
     {1, 2, 3, 5},
     true},
};

struct GkdCase {
  int64_t stages, replicas, shards, student;
  DType dtype = DType::f32;
  bool uneven = false;  // all blocks but those that other stages need are in the first
};

std::string name_of(const GkdCase& c) {
  return fmt::format("{}_{}x{}_ranks_{}_shards_{}{}", kStudents[c.student].name, c.stages, c.replicas, c.shards,
                     name_of(c.dtype), c.uneven ? "_uneven" : "");
}
void PrintTo(const GkdCase& c, std::ostream* os) { *os << name_of(c); }

ModelConfig teacher_config(const Student& student) {
  ModelConfig config = small_config();
  config.num_hidden_layers = 6, config.num_key_value_heads = 4;
  config.tie_word_embeddings = student.tied;
  return config;
}

Model make_student(const Student& student, DType dtype) {
  ModelConfig config = teacher_config(student);
  Architecture blocks;
  for (const auto& [attention, ffn] : student.blocks)
    blocks.push_back({parse_choice(Subblock::attention, attention, config), parse_choice(Subblock::ffn, ffn, config)});
  config.num_hidden_layers = std::ssize(blocks);
  Model model = make_model(config, blocks, dtype);
  fill_random(model, 50);
  return model;
}

Batch batch_of(int64_t step, int64_t micro_batch) {
  Batch batch = small_batch(uint64_t(step * kMicroBatches + micro_batch) % 8);
  for (size_t n = 0; n < batch.tokens.size(); ++n) batch.weights.push_back(n % 3 == 0 ? 1.0f : 0.25f);
  return batch;
}

GkdPart part_of(const GkdCase& c, int64_t blocks, Communicator& replicas) {
  const int64_t rank = world().rank(), stage = rank / c.replicas;
  const auto begin_of = [&](int64_t s) {
    if (s == 0 || s == c.stages) return s == 0 ? 0 : blocks;
    return c.uneven ? blocks - (c.stages - s) : blocks * s / c.stages;
  };
  return {.begin = begin_of(stage),
          .end = begin_of(stage + 1),
          .stage = stage,
          .stages = c.stages,
          .replicas = {.group = &replicas, .index = rank % c.replicas, .count = c.replicas},
          .world = &world()};
}

GkdOptions options_of(const GkdCase& c, const Student& student) {
  GkdOptions options;
  options.loss = {.cosine = 1, .kl = 0.5, .cross_entropy = 0.25};
  options.batch_tokens = kSmallBatchTokens;
  options.micro_batches = kMicroBatches;
  options.shards = c.shards;
  options.teacher_layers = student.teacher_layers;
  options.schedule.learning_rate_peak = 3e-3;
  options.schedule.steps = 40;
  options.optimiser.gradient_clip = 0.5;  // less than the norm
  return options;
}

std::vector<Batch> batches_of(int64_t step, const Replicas& replicas) {
  std::vector<Batch> batches;
  const int64_t mine = kMicroBatches / replicas.count, first = replicas.index * mine;
  for (int64_t m = first; m < first + mine; ++m) batches.push_back(batch_of(step, m));
  return batches;
}

Tensor tensor_named(const std::string& name, const std::vector<NamedTensor>& tensors) {
  for (const NamedTensor& t : tensors)
    if (t.name == name) return t.tensor;
  throw Error(name + " is nowhere");
}

bool is_skipped(const GkdCase& c) { return c.stages * c.replicas != world().size(); }

class RanksGkd : public testing::TestWithParam<GkdCase> {
 protected:
  void SetUp() override {
    const GkdCase& c = GetParam();
    if (is_skipped(c)) GTEST_SKIP() << c.stages << " x " << c.replicas << " ranks, there are " << world().size();
    replicas_ = world().split(int(world().rank() / c.replicas), world().rank());
    teacher_ = make_model(teacher_config(student()), teacher_architecture(teacher_config(student())), c.dtype);
    fill_random(teacher_, 3);
    start_ = make_student(student(), c.dtype);
    part_ = part_of(c, std::ssize(start_.blocks), replicas_);
  }
  const Student& student() const { return kStudents[GetParam().student]; }
  /// A rank's own blocks; weights that it must not touch are not a number.
  Model own_student() {
    const Model poisoned = copy_model(start_, GetParam().dtype);
    for (const NamedTensor& t : named_tensors(poisoned))
      dispatch(t.tensor.dtype, [&]<class T>() { std::fill_n(t.tensor.as<T>(), t.tensor.size(), T(NAN)); });
    Model own = copy_part(start_, part_.begin, part_.end, GetParam().dtype, ctx_), result = poisoned;
    const int64_t begin = part_.begin, end = part_.end;
    if (begin == 0) result.embedding = own.embedding;
    for (int64_t b = begin; b < end; ++b) result.blocks[size_t(b)] = own.blocks[size_t(b)];
    if (part_.is_last()) result.final_norm = own.final_norm, result.head = own.head;
    result.memory.insert(result.memory.end(), own.memory.begin(), own.memory.end());
    return result;
  }
  /// Of the rank's part and the whole student of one process.
  void expect_same_weights(const Model& own, const Model& whole) const {
    const auto expect_same = [](Tensor x, Tensor y, const std::string& name) {
      EXPECT_EQ(std::memcmp(x.data, y.data, size_t(y.bytes())), 0) << name;
    };
    const std::vector<NamedTensor> x = part_tensors(own, part_.begin, part_.end);
    const std::vector<NamedTensor> y = part_tensors(whole, part_.begin, part_.end);
    for (size_t i = 0; i < y.size(); ++i) expect_same(x[i].tensor, y[i].tensor, y[i].name);
    if (part_.is_last()) expect_same(own.head.values, whole.head.values, "the head");
  }

  Context ctx_{Context::Options{.threads = 1}};
  Communicator replicas_;
  Model teacher_, start_;
  GkdPart part_;
};

TEST_P(RanksGkd, TrainsTheSameBitsAsOneProcess) {
  const GkdOptions options = options_of(GetParam(), student());
  Model whole = copy_model(start_, start_.dtype), own = own_student();
  GkdTrainer alone(whole, &teacher_, options, ctx_), trainer(own, &teacher_, options, part_, ctx_);
  for (int64_t step = 0; step < kSteps; ++step) {
    const GkdLosses expected = alone.step(batches_of(step, {})), found = trainer.step(batches_of(step, part_.replicas));
    EXPECT_GT(expected.gradient_norm, options.optimiser.gradient_clip);  // or clipping is not tested
    EXPECT_EQ(found.cosine, expected.cosine);
    EXPECT_EQ(found.kl, expected.kl);
    EXPECT_EQ(found.cross_entropy, expected.cross_entropy);
    EXPECT_EQ(found.gradient_norm, expected.gradient_norm);
  }
  expect_same_weights(own, whole);
}

// Oracle: one process that adds up gradients in another order, over all micro-batches. With beta1 = 0 and no clipping
// moment 1 is the gradient.
TEST_P(RanksGkd, GradientsAreThoseOfOneShard) {
  if (GetParam().dtype != DType::f32) GTEST_SKIP() << "an f32 bound";
  GkdOptions options = options_of(GetParam(), student());
  options.optimiser.beta1 = 0, options.optimiser.gradient_clip = 0, options.schedule.learning_rate_peak = 0;
  Model whole = copy_model(start_, start_.dtype), own = own_student();
  GkdTrainer trainer(own, &teacher_, options, part_, ctx_);
  trainer.step(batches_of(0, part_.replicas));
  options.shards = 1;
  GkdTrainer alone(whole, &teacher_, options, ctx_);
  alone.step(batches_of(0, {}));
  std::string owned;
  const std::vector<NamedTensor> all = alone.state();
  for (const NamedTensor& found : trainer.state()) {
    if (!found.name.ends_with("/moment1")) continue;
    owned += found.name + ";";
    const Tensor expected = tensor_named(found.name, all);
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < found.tensor.size(); ++i) {
      const double x = expected.as<float>()[i];
      difference += std::pow(found.tensor.as<float>()[i] - x, 2), norm += x * x;
    }
    EXPECT_LE(std::sqrt(difference), 1e-6 * std::sqrt(norm)) << found.name;
    EXPECT_GT(norm, 0) << found.name;
  }
  // Every tensor has one owner among all ranks.
  std::string owned_by_all;
  for (const std::string& of_rank : world().gather(owned)) owned_by_all += of_rank;
  for (const NamedTensor& t : all)
    if (t.name.ends_with("/moment1")) {
      const size_t first = owned_by_all.find(t.name + ";");
      EXPECT_NE(first, std::string::npos) << t.name;
      EXPECT_EQ(first, owned_by_all.rfind(t.name + ";")) << t.name;
    }
}

// A checkpoint of one process, found by names, takes any grid to where that run was.
TEST_P(RanksGkd, GoesOnFromTheStateOfAnotherGrid) {
  const GkdOptions options = options_of(GetParam(), student());
  Model whole = copy_model(start_, start_.dtype), own = own_student();
  GkdTrainer alone(whole, &teacher_, options, ctx_), trainer(own, &teacher_, options, part_, ctx_);
  for (int64_t step = 0; step < 2; ++step) alone.step(batches_of(step, {}));
  for (const NamedTensor& to : trainer.state()) copy(to.tensor, tensor_named(to.name, alone.state()));
  trainer.resume(2);
  alone.step(batches_of(2, {}));
  trainer.step(batches_of(2, part_.replicas));
  expect_same_weights(own, whole);
}

std::vector<GkdCase> cases() {
  std::vector<GkdCase> all;
  for (int64_t student = 0; student < 3; ++student) {
    for (const auto& [stages, replicas, shards] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{{1, 1, 1},
                                                                                                     {1, 1, 4},
                                                                                                     {2, 1, 1},
                                                                                                     {2, 1, 2},
                                                                                                     {1, 2, 2},
                                                                                                     {1, 2, 4},
                                                                                                     {3, 1, 1},
                                                                                                     {4, 1, 1},
                                                                                                     {4, 1, 4},
                                                                                                     {2, 2, 2},
                                                                                                     {2, 2, 4},
                                                                                                     {1, 4, 4}})
      all.push_back({stages, replicas, shards, student});
    all.push_back({3, 1, 2, student, DType::f32, /*uneven=*/true});
    all.push_back({2, 2, 2, student, DType::bf16});
    all.push_back({2, 1, 1, student, DType::bf16});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(, RanksGkd, testing::ValuesIn(cases()), [](const auto& test) { return name_of(test.param); });

}  // namespace
}  // namespace tangram
