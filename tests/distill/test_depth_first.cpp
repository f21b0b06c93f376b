#include "distill/depth_first.h"

#include <gtest/gtest.h>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "tests/blocks/folder.h"
#include "tests/distill/bld_setting.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kSteps = 4, kMicroBatches = 2;

std::vector<Batch> batches_of(int64_t step) {
  return {small_batch(uint64_t(2 * step)), small_batch(uint64_t(2 * step + 1))};
}

struct DepthFirstTest : testing::Test {
  BldSetting setting;
  TestFolder folder;
  std::vector<Replacement> replacements;

  DepthFirstTest() {
    for (int64_t layer = 0; layer < 3; ++layer) {
      for (const Replacement& r : setting.all_of_layer(layer)) replacements.push_back(r);
      replacements.push_back(setting.pair(layer));
    }
    for (const int64_t first : {1, 0}) replacements.push_back(setting.span(first, 2, "gqa_2", "ffn_24"));
    replacements.push_back(setting.span(0, 3, "linear", "ffn_8"));
  }

  BldOptions options() const {
    BldOptions o = setting.options();
    o.micro_batches = kMicroBatches;
    o.init = Init::random;  // its numbers hang on the replacement's place
    return o;
  }
  DepthFirstRun run(TeacherSource teacher) const {
    return {std::move(teacher), replacements, options(), kSteps, folder.path};
  }

  // What a layer ends with: weights of its students and losses of every step.
  struct Result {
    std::vector<float> losses;
    std::vector<LibraryEntry> entries;
    std::shared_ptr<DepthFirstLayer> layer;  // owns the weights
  };
  Result train(const DepthFirstRun& run, int64_t index, int64_t stop_at = kSteps) {
    Result result{
        .losses = {}, .entries = {}, .layer = std::make_shared<DepthFirstLayer>(run, index, true, setting.ctx)};
    result.layer->start(setting.statistics[size_t(index)]);
    go_on(result, 0, stop_at);
    return result;
  }
  void go_on(Result& result, int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s) {
      result.layer->step(batches_of(s));
      const std::vector<float> losses = result.layer->losses();
      result.losses.insert(result.losses.end(), losses.begin(), losses.end());
    }
    if (to < kSteps) return result.layer->flush();
    result.layer->finish();
    for (const size_t place : result.layer->places()) result.entries.push_back(result.layer->entry(place));
  }
  void expect_same(const Result& a, const Result& b) {
    EXPECT_EQ(a.losses, b.losses);
    ASSERT_EQ(a.entries.size(), b.entries.size());
    for (size_t i = 0; i < a.entries.size(); ++i)
      EXPECT_EQ(largest_difference(a.entries[i], b.entries[i]), 0) << a.entries[i].replacement.name();
  }
};

// Oracle: BldTrainer, which takes every step with all layers.
TEST_F(DepthFirstTest, EndsWithTheBytesOfBreadthFirst) {
  BldTrainer breadth = setting.trainer(replacements, options());
  std::vector<std::vector<float>> losses;
  for (int64_t s = 0; s < kSteps; ++s) {
    breadth.step(batches_of(s));
    losses.emplace_back(breadth.losses().begin(), breadth.losses().end());
  }
  save_model(folder.path / "teacher", setting.teacher);
  const DepthFirstRun streamed = run(streamed_teacher(folder.path / "teacher", DType::f32));
  for (int64_t l = 0; l < 3; ++l) {
    const Result layer = train(streamed, l);
    const std::vector<size_t>& places = layer.layer->places();
    ASSERT_EQ(places.size(), 7u + size_t(l));  // spans end with the later layers
    for (size_t i = 0; i < places.size(); ++i) {
      EXPECT_EQ(largest_difference(layer.entries[i], breadth.entry(places[i])), 0)
          << l << " " << replacements[places[i]].name();
      for (size_t s = 0; s < size_t(kSteps); ++s)
        EXPECT_EQ(layer.losses[s * places.size() + i], losses[s][places[i]]) << l << " step " << s;
    }
  }
}

// A teacher in bf16 whose file is f32: its layers are converted one at a time, as the whole model would be.
TEST_F(DepthFirstTest, ConvertsLayersAsTheWholeModel) {
  save_model(folder.path / "teacher", setting.teacher);
  const Model whole = load_model(folder.path / "teacher", DType::bf16);
  const TeacherSource streamed = streamed_teacher(folder.path / "teacher", DType::bf16);
  for (int64_t l = 2; l >= 0; --l)
    for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
      const SubblockWeights &a = streamed.layer(l, setting.ctx).of(s), &b = whole.blocks[size_t(l)].of(s);
      ASSERT_EQ(a.params.size(), b.params.size());
      for (size_t p = 0; p < a.params.size(); ++p) {
        const Tensor x = a.params[p].values, y = b.params[p].values;
        ASSERT_EQ(x.dtype, DType::bf16);
        EXPECT_EQ(std::memcmp(x.data, y.data, size_t(x.bytes())), 0) << l << " " << p;
      }
    }
  Tensor x[2];
  Arena arena(1 << 16);
  for (Tensor& t : x) t = arena.tensor(3, 32, DType::bf16);
  const std::vector<int32_t> tokens{1, 5, 22};
  streamed.embed(x[0], tokens, setting.ctx);
  embed(x[1], whole, tokens, setting.ctx);
  EXPECT_EQ(std::memcmp(x[0].data, x[1].data, size_t(x[0].bytes())), 0);
}

TEST_F(DepthFirstTest, ResumedLayerEndsWithTheSameBytes) {
  const DepthFirstRun depth = run(teacher_in_memory(setting.teacher));
  train(depth, 0);
  const Result whole = train(depth, 1);
  const std::string boundary = read_text_file(boundary_path(folder.path, 2), 1 << 20);
  fs::remove(boundary_path(folder.path, 2));

  Result killed = train(depth, 1, 2);
  std::vector<std::vector<float>> checkpoint;
  for (const NamedTensor& t : killed.layer->state())
    checkpoint.emplace_back(t.tensor.as<float>(), t.tensor.as<float>() + t.tensor.size());
  killed.layer->step(batches_of(2));  // what came after the flush may be lost
  killed.layer.reset();
  Result resumed{
      .losses = killed.losses, .entries = {}, .layer = std::make_shared<DepthFirstLayer>(depth, 1, true, setting.ctx)};
  const std::vector<NamedTensor> state = resumed.layer->state();
  for (size_t i = 0; i < state.size(); ++i)
    std::copy(checkpoint[i].begin(), checkpoint[i].end(), state[i].tensor.as<float>());
  resumed.layer->resume(2);
  go_on(resumed, 2, kSteps);
  expect_same(whole, resumed);
  EXPECT_TRUE(read_text_file(boundary_path(folder.path, 2), 1 << 20) == boundary);

  // An earlier checkpoint serves a layer that had finished, too.
  Result again{
      .losses = killed.losses, .entries = {}, .layer = std::make_shared<DepthFirstLayer>(depth, 1, true, setting.ctx)};
  const std::vector<NamedTensor> state_again = again.layer->state();
  for (size_t i = 0; i < state_again.size(); ++i)
    std::copy(checkpoint[i].begin(), checkpoint[i].end(), state_again[i].tensor.as<float>());
  again.layer->resume(2);
  go_on(again, 2, kSteps);
  expect_same(whole, again);
  EXPECT_TRUE(read_text_file(boundary_path(folder.path, 2), 1 << 20) == boundary);
}

TEST_F(DepthFirstTest, UntrainedLayersCarryTheSameStreamOn) {
  const DepthFirstRun depth = run(teacher_in_memory(setting.teacher));
  for (int64_t l = 0; l < 2; ++l) train(depth, l);
  const std::string boundary = read_text_file(boundary_path(folder.path, 2), 1 << 20);
  for (int64_t l = 0; l < 2; ++l) {
    DepthFirstLayer layer(depth, l, false, setting.ctx);
    layer.start();
    for (int64_t s = 0; s < kSteps; ++s) layer.step(batches_of(s));
    layer.finish();
    EXPECT_TRUE(layer.places().empty());
  }
  EXPECT_TRUE(read_text_file(boundary_path(folder.path, 2), 1 << 20) == boundary);
}

// The plan is of the code that runs: the arenas of a layer fit exactly, and the products are those that are issued.
TEST_F(DepthFirstTest, PlanCountsWhatAStepDoes) {
  const DepthFirstRun depth = run(teacher_in_memory(setting.teacher));
  const BldPlan plan = DepthFirstLayer::plan(depth, 1, small_batch(0), Device::cpu, 2);
  train(depth, 0);
  DepthFirstLayer layer(depth, 1, true, setting.ctx);
  layer.start(setting.statistics[1]);
  const double matmul = setting.ctx.matmul_flops, attention = setting.ctx.attention_flops;
  layer.step(batches_of(0));
  EXPECT_EQ(plan.matmul_flops, setting.ctx.matmul_flops - matmul);
  EXPECT_EQ(plan.attention_flops, setting.ctx.attention_flops - attention);
  // f32: weights are their own masters. gqa_1, window_3, linear; ffn_24, ffn_8, linear; the pair's FFN and norm.
  const int64_t attention_parameters = (2 * 32 * 32 + 2 * 8 * 32) + (2 * 32 * 32 + 2 * 16 * 32) + 32 * 32;
  const int64_t ffn_parameters = 3 * 32 * (24 + 8) + 32 * 32, pair_parameters = 3 * 32 * 48 + 32;
  const int64_t span_parameters = (2 * 32 * 32 + 2 * 16 * 32) + 3 * 32 * 24 + 2 * 32;
  const int64_t parameters = attention_parameters + ffn_parameters + pair_parameters + span_parameters;
  EXPECT_EQ(plan.weight_bytes, 4 * parameters);
  EXPECT_EQ(plan.master_bytes, 0);
  EXPECT_EQ(plan.moment_bytes, 8 * parameters);
  EXPECT_EQ(plan.gradient_bytes, 4 * parameters);
  EXPECT_EQ(plan.state_bytes, 12 * parameters);
  EXPECT_GT(plan.work_bytes, plan.gradient_bytes);
}

TEST_F(DepthFirstTest, BatchesOfAnotherSizeAreRefused) {
  const DepthFirstRun depth = run(teacher_in_memory(setting.teacher));
  DepthFirstLayer layer(depth, 0, true, setting.ctx);
  layer.start(setting.statistics[0]);
  std::vector<Batch> batches = batches_of(0);
  batches[1].tokens.pop_back(), batches[1].targets.pop_back(), --batches[1].lengths.back();
  EXPECT_THROW(layer.step(batches), Error);
  EXPECT_THROW(layer.step(std::vector<Batch>{small_batch(0)}), Error);
}

}  // namespace
}  // namespace tangram
