#include <gtest/gtest.h>

#include <ostream>

#include "blocks/decoder.h"
#include "blocks/generate.h"
#include "kernels/cuda_devices.h"
#include "kernels/transfer.h"
#include "tests/small_model.h"

// Decode on a GPU, or on kernels that are emulated, against the same on the CPU.

namespace tangram {
namespace {

using Names = std::vector<std::pair<const char*, const char*>>;  // of each block's attention and FFN

struct Case {
  Names blocks;
  DType dtype;
  int64_t sequences;
};

void PrintTo(const Case& c, std::ostream* out) {
  for (const auto& [attention, ffn] : c.blocks) *out << attention << " " << ffn << ", ";
  *out << name_of(c.dtype) << ", " << c.sequences << " sequences";
}

class CudaDecoder : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kTokens = 12;  // of a sequence, at most

  void SetUp() override {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU in this machine";
    gpu = std::make_unique<Context>(Context::Options{.device = Device::cuda, .scratch_bytes = 1 << 28});
    ModelConfig config = small_config();
    config.hidden_size = 64;  // a line of bf16: the fast kernels
    Architecture architecture;
    for (const auto& [attention, ffn] : p.blocks)
      architecture.push_back(
          {parse_choice(Subblock::attention, attention, config), parse_choice(Subblock::ffn, ffn, config)});
    config.num_hidden_layers = std::ssize(architecture);
    model = make_model(config, architecture, p.dtype);
    fill_random(model, 3);
    on_gpu = move_model(model, Device::cuda, *gpu);
  }

  // Fills a cache with prompts of the same length, and puts the decoder behind it.
  void start(Decoder& decoder, const Model& m, KvCache& cache, Context& ctx) {
    std::vector<int32_t> prompts, next, past(size_t(p.sequences), 3);
    for (int32_t i = 0; i < 3 * p.sequences; ++i) prompts.push_back(i * 5 % 23);
    for (int32_t s = 0; s < p.sequences; ++s) next.push_back(s * 7 % 23);
    prefill(
        m, view_of(prompts.data(), p.sequences, 3), cache, 100, [](int64_t, int64_t, Tensor) {}, ctx);
    decoder.start(next, past);
  }

  const Case& p = GetParam();
  Context cpu{{.threads = 1}};
  std::unique_ptr<Context> gpu;
  Model model, on_gpu;
};

// In bf16 every one of a few layers rounds some ten times, by up to 2^-9 of values near 1.
TEST_P(CudaDecoder, LogitsMatchCpu) {
  const double tolerance = p.dtype == DType::f32 ? 1e-5 : 0.05;
  ContiguousCache cache = make_cache(model, p.sequences, kTokens), gcache = make_cache(on_gpu, p.sequences, kTokens);
  Decoder decoder(model, cache.cache, cpu), gdecoder(on_gpu, gcache.cache, *gpu);
  start(decoder, model, cache.cache, cpu);
  start(gdecoder, on_gpu, gcache.cache, *gpu);
  for (int step = 0; step < 5; ++step) {
    decoder.step(), gdecoder.step();
    const HostView found(gdecoder.logits(), *gpu);
    const Tensor expected = decoder.logits();
    for (int64_t s = 0; s < p.sequences; ++s)
      for (int64_t v = 0; v < expected.cols; ++v)
        ASSERT_NEAR(found.tensor().row<float>(s)[v], expected.row<float>(s)[v], tolerance)
            << "step " << step << ", sequence " << s;
    std::vector<int32_t> next = decoder.tokens(), past(next.size(), 4 + step);
    for (size_t s = 0; s < next.size(); ++s) {
      const float* l = found.tensor().row<float>(int64_t(s));
      EXPECT_EQ(gdecoder.tokens()[s], std::max_element(l, l + expected.cols) - l);
    }
    gdecoder.start(next, past);  // where two logits are nearly equal the devices may choose different tokens
  }
}

// A graph that is launched again and again gives what its operations give one by one.
TEST_P(CudaDecoder, RepeatsGiveTheSameBits) {
  std::vector<std::vector<int32_t>> runs;
  for (int run = 0; run < 2; ++run) {
    ContiguousCache cache = make_cache(on_gpu, p.sequences, kTokens);
    std::vector<int32_t> all;
    std::unique_ptr<Decoder> decoder = std::make_unique<Decoder>(on_gpu, cache.cache, *gpu);
    start(*decoder, on_gpu, cache.cache, *gpu);
    for (int32_t step = 0; step < 6; ++step) {
      decoder->step();
      const std::vector<int32_t> next = decoder->tokens(), past(next.size(), 4 + step);
      all.insert(all.end(), next.begin(), next.end());
      if (run == 0) continue;
      decoder = std::make_unique<Decoder>(on_gpu, cache.cache, *gpu);  // whose first step is no graph
      decoder->start(next, past);
    }
    runs.push_back(all);
  }
  EXPECT_EQ(runs[0], runs[1]);
}

// Past the window, whose layers keep a ring: prompts that are written to it in parts, and steps that go around.
TEST_P(CudaDecoder, LogitsMatchCpuBehindAWindow) {
  constexpr int64_t kLong = 60, kPrompt = 43;
  ContiguousCache cache = make_cache(model, p.sequences, kLong), gcache = make_cache(on_gpu, p.sequences, kLong);
  std::vector<int32_t> prompts, next;
  for (int32_t i = 0; i < kPrompt * p.sequences; ++i) prompts.push_back(i * i % 23);
  for (int32_t s = 0; s < p.sequences; ++s) next.push_back(s * 7 % 23);
  const auto fill = [&](const Model& m, KvCache& to, Context& ctx) {
    prefill(
        m, view_of(prompts.data(), p.sequences, kPrompt), to, 40 * p.sequences, [](int64_t, int64_t, Tensor) {}, ctx);
  };
  fill(model, cache.cache, cpu), fill(on_gpu, gcache.cache, *gpu);
  Decoder decoder(model, cache.cache, cpu), gdecoder(on_gpu, gcache.cache, *gpu);
  for (int32_t step = 0; step < 10; ++step) {
    const std::vector<int32_t> past(next.size(), int32_t(kPrompt) + step);
    decoder.start(next, past), gdecoder.start(next, past);
    decoder.step(), gdecoder.step();
    const HostView found(gdecoder.logits(), *gpu);
    for (int64_t s = 0; s < p.sequences; ++s)
      for (int64_t v = 0; v < model.config.vocab_size; ++v)
        ASSERT_NEAR(found.tensor().row<float>(s)[v], decoder.logits().row<float>(s)[v],
                    p.dtype == DType::f32 ? 1e-5 : 0.05)
            << "step " << step << ", sequence " << s;
    next = decoder.tokens();
  }
}

TEST_P(CudaDecoder, RefusesToOutgrowItsCache) {
  ContiguousCache cache = make_cache(on_gpu, p.sequences, 2);
  Decoder decoder(on_gpu, cache.cache, *gpu);
  EXPECT_THROW(decoder.step(), Error);  // not started
  decoder.start(std::vector<int32_t>(size_t(p.sequences), 1), std::vector<int32_t>(size_t(p.sequences), 0));
  decoder.step(), decoder.step();
  EXPECT_THROW(decoder.step(), Error);
  EXPECT_THROW(
      decoder.start(std::vector<int32_t>(size_t(p.sequences), 23), std::vector<int32_t>(size_t(p.sequences), 0)),
      Error);
}

const Names kRegular{{"gqa_2", "ffn_48"}, {"gqa_2", "ffn_48"}};
const Names kIrregular{{"gqa_1", "no_op"}, {"linear", "ffn_12"}, {"no_op", "linear"}, {"window_3", "ffn_48"}};
const Names kWithoutAttention{{"linear", "ffn_48"}, {"no_op", "ffn_7"}, {"linear", "linear"}, {"linear", "no_op"}};
INSTANTIATE_TEST_SUITE_P(Models, CudaDecoder,
                         testing::Values(Case{kRegular, DType::f32, 1}, Case{kIrregular, DType::f32, 3},
                                         Case{kRegular, DType::bf16, 2}, Case{kIrregular, DType::bf16, 1},
                                         Case{kWithoutAttention, DType::f32, 9},
                                         Case{kWithoutAttention, DType::bf16, 8}));

}  // namespace
}  // namespace tangram
