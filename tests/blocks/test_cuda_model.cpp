// Whole models on a GPU, or the emulated one, against the CPU.

#include <gtest/gtest.h>

#include "blocks/generate.h"
#include "kernels/cuda_devices.h"
#include "kernels/elementwise.h"
#include "kernels/transfer.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

// Every kind of subblock.
Model irregular_model(DType dtype) {
  const ModelConfig config = small_config();
  const auto attention = [&](const char* name) { return parse_choice(Subblock::attention, name, config); };
  const auto ffn = [&](const char* name) { return parse_choice(Subblock::ffn, name, config); };
  const Model model = make_model(config,
                                 {{attention("gqa_2"), ffn("ffn_48")},
                                  {attention("gqa_1"), ffn("linear")},
                                  {attention("window_3"), ffn("ffn_20")}},
                                 DType::f32);
  fill_random(model, 1);
  return copy_model(model, dtype);
}

class CudaModel : public testing::TestWithParam<DType> {
 protected:
  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda});
    on_gpu = move_model(model, Device::cuda, *gpu);
  }

  // What `compute` leaves in a tensor, on the host.
  std::vector<double> values(const Model& m, Context& ctx,
                             const std::function<Tensor(const Model&, Context&)>& compute) {
    ArenaScope scope(ctx.scratch);
    const HostView host(compute(m, ctx), ctx);
    std::vector<double> all;
    dispatch(host.tensor().dtype, [&]<class T>() {
      for (int64_t r = 0; r < host.tensor().rows; ++r)
        for (int64_t c = 0; c < host.tensor().cols; ++c) all.push_back(double(float(host.tensor().row<T>(r)[c])));
    });
    return all;
  }
  // Layers amplify what the operations' roundings differ in.
  void expect_same(const std::function<Tensor(const Model&, Context&)>& compute) {
    const std::vector<double> expected = values(model, cpu, compute), found = values(on_gpu, *gpu, compute);
    double norm = 0, error = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      norm += expected[i] * expected[i];
      error += (found[i] - expected[i]) * (found[i] - expected[i]);
    }
    ASSERT_EQ(found.size(), expected.size());
    EXPECT_GT(norm, 0);
    EXPECT_LT(std::sqrt(error / norm), (GetParam() == DType::f32 ? 64 : 8) * unit_roundoff(GetParam()));
  }

  Context cpu{{.threads = 1}};
  std::unique_ptr<Context> gpu;
  const Model model = irregular_model(GetParam());
  Model on_gpu = model;
  const std::vector<int32_t> tokens{1, 5, 18, 5, 0, 7, 2, 2, 11};
};

TEST_P(CudaModel, HiddenStates) {
  expect_same([&](const Model& m, Context& ctx) {
    const Tensor hidden = ctx.scratch.tensor(9, m.config.hidden_size, m.dtype);
    const SequenceBatch batch(m.config, std::vector<int32_t>{4, 5}, {}, ctx.scratch, ctx);
    model_hidden(hidden, m, tokens, batch.view(), ctx);
    return hidden;
  });
}

TEST_P(CudaModel, PrefillThenDecode) {
  expect_same([&](const Model& m, Context& ctx) {
    const Tensor hidden = ctx.scratch.tensor(9, m.config.hidden_size, m.dtype);
    ContiguousCache memory = make_cache(m, 1, 9);
    for (const auto& [first, count] : {std::pair{0, 6}, {6, 1}, {7, 2}}) {
      const SequenceBatch batch(m.config, std::vector<int32_t>{count}, std::vector<int32_t>{first}, ctx.scratch, ctx);
      model_infer(hidden.row_range(first, count), m, std::span(tokens).subspan(size_t(first), size_t(count)),
                  batch.view(), memory.cache, ctx);
    }
    synchronize(ctx);
    return hidden;
  });
}

TEST_P(CudaModel, GradientsOfAllParameters) {
  expect_same([&](const Model& m, Context& ctx) {
    const SequenceBatch batch(m.config, std::vector<int32_t>{4, 5}, {}, ctx.scratch, ctx);
    ModelActivations activations = make_activations(m, 9, ctx.scratch);
    ModelGrads grads = make_grads(m, ctx.scratch);
    fill_zero(grads.flat, ctx);
    model_forward(activations, m, tokens, batch.view(), ctx);
    const Tensor dhidden = ctx.scratch.tensor(9, m.config.hidden_size, m.dtype);
    copy(dhidden, activations.hidden, ctx);
    model_backward(grads, dhidden, activations, m, tokens, batch.view(), {}, ctx);
    return grads.flat;
  });
}

TEST_P(CudaModel, GeneratesTheSameGreedyText) {
  if (GetParam() == DType::bf16) GTEST_SKIP() << "a rounding may decide between two words";
  std::vector<int32_t> expected, found;
  const GenerateOptions options{.max_tokens = 12, .sampling = {.temperature = 0}, .seed = 0, .stop = {}};
  generate(
      model, tokens, options, [&](int32_t id) { expected.push_back(id); }, cpu);
  generate(
      on_gpu, tokens, options, [&](int32_t id) { found.push_back(id); }, *gpu);
  EXPECT_EQ(found, expected);
}

INSTANTIATE_TEST_SUITE_P(DTypes, CudaModel, testing::Values(DType::f32, DType::bf16),
                         [](const auto& of) { return std::string(name_of(of.param)); });

}  // namespace
}  // namespace tangram
