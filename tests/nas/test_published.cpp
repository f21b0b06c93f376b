#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "blocks/config_json.h"
#include "nas/hardware_file.h"
#include "nas/plan_serving.h"
#include "puzzle/calibration.h"

namespace tangram {
namespace {

using nlohmann::json;

// --- Released architectures: facts of their block_configs. Which layer has which width is not published in full, and
// --- neither parameters nor cache depend on it.

/// One entry of block_configs; no ffn_mult and no group: no_op.
json block_config(std::optional<int64_t> group, std::optional<double> ffn_mult) {
  json block = {{"attention", {{"no_op", !group}, {"replace_with_linear", false}, {"n_heads_in_group", nullptr}}},
                {"ffn", {{"no_op", !ffn_mult}, {"replace_with_linear", false}, {"ffn_mult", nullptr}}}};
  if (group) block["attention"]["n_heads_in_group"] = *group;
  if (ffn_mult) block["ffn"]["ffn_mult"] = *ffn_mult;
  return block;
}

ModelDescription released(int64_t hidden, int64_t heads, const json& blocks) {
  const json config = {{"architectures", {"DeciLMForCausalLM"}},
                       {"model_type", "nemotron-nas"},
                       {"hidden_size", hidden},
                       {"num_attention_heads", heads},
                       {"num_hidden_layers", blocks.size()},
                       {"num_key_value_heads", nullptr},
                       {"intermediate_size", nullptr},
                       {"vocab_size", 128256},
                       {"max_position_embeddings", 131072},
                       {"rms_norm_eps", 1e-5},
                       {"rope_theta", 500000.0},
                       {"hidden_act", "silu"},
                       {"tie_word_embeddings", false},
                       {"block_configs", blocks}};
  return parse_config_json(config.dump(), "config.json");
}

std::map<int64_t, int64_t> widths_of(const ModelDescription& model) {
  std::map<int64_t, int64_t> widths;
  for (const BlockChoice& block : model.architecture)
    if (!block.ffn.variant->no_op) ++widths[block.ffn.size];
  return widths;
}

// Llama-3_3-Nemotron-Super-49B: 49 attentions of 8 KV heads, 31 no_op in layers 6, 7, 11, 42-51 and 53-70; all FFNs
// live. Published: the widths, 392 KV heads, and 49 (49.9 in full) billion parameters.
TEST(Published, Nemotron49B) {
  std::vector<double> mults;
  for (const auto& [mult, count] :
       std::vector<std::pair<double, int>>{{5.25, 49}, {0.5, 6}, {1.0, 8}, {1.3125, 10}, {2.625, 6}, {3.28125, 1}})
    mults.insert(mults.end(), size_t(count), mult);
  json blocks = json::array();
  for (int64_t layer = 0; layer < 80; ++layer) {
    const bool skipped =
        layer == 6 || layer == 7 || layer == 11 || (layer >= 42 && layer <= 51) || (layer >= 53 && layer <= 70);
    blocks.push_back(block_config(skipped ? std::nullopt : std::optional<int64_t>(8), mults[size_t(layer)]));
  }
  const ModelDescription model = released(8192, 64, blocks);
  EXPECT_EQ(widths_of(model),
            (std::map<int64_t, int64_t>{{2816, 6}, {5632, 8}, {7168, 10}, {14336, 6}, {17920, 1}, {28672, 49}}));
  EXPECT_EQ(kv_bytes_per_token(model.architecture, model.config, Precision::bf16), 392 * 128 * 2 * 2);
  EXPECT_EQ(kv_bytes_per_token(teacher_architecture(model.config), model.config, Precision::bf16), 327680);
  // Matrices and norms, counted without Tangram's variants.
  const double widths = 2816 * 6 + 5632 * 8 + 7168 * 10 + 14336 * 6 + 17920 + 28672.0 * 49;
  const double attention = 49 * (2.0 * 8192 * 8192 + 2.0 * 8192 * 1024), norms = (49 + 80 + 1) * 8192.0;
  const double parameters = model_parameters(model.architecture, model.config);
  EXPECT_EQ(parameters, 2.0 * 128256 * 8192 + attention + 3 * 8192 * widths + norms);
  EXPECT_NEAR(parameters, 49.9e9, 0.05e9);
}

// Llama-3_1-Nemotron-Ultra-253B: 162 layers, of which 64 have attention (8 KV heads in groups of 16), 81 have nothing.
// Of its 81 FFNs the four fused and 34 full ones are published with their counts, of the others only the least.
TEST(Published, Nemotron253B) {
  json blocks = json::array();
  for (int layer = 0; layer < 64; ++layer) blocks.push_back(block_config(16, layer < 34 ? 4.875 : 0.4875));
  for (const double fused : {27.5625, 31.40625, 36.5625, 39.0}) blocks.push_back(block_config(std::nullopt, fused));
  for (int layer = 0; layer < 13; ++layer) blocks.push_back(block_config(std::nullopt, 0.4875));
  for (int layer = 0; layer < 81; ++layer) blocks.push_back(block_config(std::nullopt, std::nullopt));
  const ModelDescription model = released(16384, 128, blocks);
  EXPECT_EQ(widths_of(model),
            (std::map<int64_t, int64_t>{{5376, 43}, {53248, 34}, {301056, 1}, {343040, 1}, {399360, 1}, {425984, 1}}));
  EXPECT_EQ(kv_bytes_per_token(model.architecture, model.config, Precision::bf16), 64 * 8 * 128 * 2 * 2);
  // With the 43 others as narrow as they can be it has less than 253 billion parameters, with full ones more.
  const double least = model_parameters(model.architecture, model.config);
  const double most = least + 43 * 3 * 16384.0 * (53248 - 5376);
  EXPECT_LT(least, 253e9);
  EXPECT_GT(most, 253e9);
}

// --- Published serving rates: output tokens a second and H100, TensorRT-LLM in FP8, of Llama 3.1 70B (Puzzle, the
// --- throughput table). Up to 384 sequences run together.

struct PublishedRate {
  int64_t input, output, devices;
  double rate;
};
constexpr PublishedRate kRates[] = {{128, 128, 4, 2645},  {128, 1024, 4, 2975}, {128, 1024, 1, 1274},
                                    {128, 2048, 4, 2786}, {128, 4096, 4, 1828}, {2048, 128, 4, 339},
                                    {2048, 2048, 4, 1336}};

ModelConfig llama_70b() {
  return read_config(std::filesystem::path(TANGRAM_SOURCE_DIR) / "configs/llama-3.1-70b").config;
}

Serving serving_of(const PublishedRate& p, const Hardware& hardware) {
  return best_serving(teacher_architecture(llama_70b()), llama_70b(),
                      {.name = "load",
                       .input_tokens = p.input,
                       .output_tokens = p.output,
                       .concurrency = 384,
                       .precision = Precision::fp8,
                       .tensor_parallel = p.devices},
                      hardware);
}

std::string text_of(const PublishedRate& p, const Serving& s) {
  return fmt::format("{}/{} TP{}: {:.0f} predicted, {} published", p.input, p.output, p.devices, s.throughput, p.rate);
}

TEST(Published, RooflineOfH100PredictsTheTeacherWithin25Percent) {
  for (const PublishedRate& p : kRates) {
    const Serving s = serving_of(p, known_hardware("h100-80gb"));
    EXPECT_NEAR(s.throughput / p.rate, 1, 0.25) << text_of(p, s);
    EXPECT_LT(std::abs(s.throughput / p.rate - 1), 2 * s.error) << "within two error bars: " << text_of(p, s);
  }
}

/// The description fitted to every other row of the table, from the first on.
Hardware calibrated_h100() {
  const Hardware stated = known_hardware("h100-80gb");
  std::vector<TimedPoint> points;
  for (size_t i = 0; i < std::size(kRates); i += 2) {
    const PublishedRate p = kRates[i];
    const Scenario s = serving_of(p, stated).scenario;
    points.push_back({fmt::format("{}/{}", p.input, p.output),
                      double(s.concurrency * s.output_tokens) / (p.rate * double(p.devices)), [s](const Hardware& h) {
                        ModelledTime t = model_whole(teacher_architecture(llama_70b()), llama_70b(), s, h);
                        t.prefill += t.decode;
                        return t.prefill;
                      }});
  }
  return calibrate(stated, points).hardware;
}

TEST(Published, CalibratedOnHalfItPredictsAllWithin10Percent) {
  const Hardware hardware = calibrated_h100();
  for (const PublishedRate& p : kRates) {
    const Serving s = serving_of(p, hardware);
    EXPECT_NEAR(s.throughput / p.rate, 1, 0.10) << text_of(p, s);
  }
  // Efficiencies stay what a machine can have.
  for (const Term t : {Term::matmul_compute, Term::matmul_memory, Term::attention_prefill, Term::attention_decode,
                       Term::elementwise, Term::all_reduce}) {
    EXPECT_GT(hardware.of(t).value, 0.2) << kTermNames[size_t(t)];
    EXPECT_LT(hardware.of(t).value, 1) << kTermNames[size_t(t)];
  }
}

// Twice the teacher's rate at four devices, which is its best in the published table, and at two, which the model takes
// for better (and so do later published rates: 381 a device in 2048/128).
TEST(Published, AStudentOfTwiceTheRateKeepsMostParameters) {
  const Hardware hardware = known_hardware("h100-80gb");
  const auto parameters = [&](int64_t input, int64_t output, int64_t devices) {
    const PublishedRate load{input, output, devices, 0};
    const double rate = serving_of(load, hardware).throughput;
    Scenario one = serving_of(load, hardware).scenario;
    one.concurrency = 384, one.tensor_parallel = 1;
    const std::optional<PlannedStudent> student = plan_student(llama_70b(), one, hardware, 2 * rate);
    if (!student) return 0.0;
    EXPECT_TRUE(student->proven);
    EXPECT_GE(student->serving.throughput, 2 * rate * (1 - 1e-9));
    EXPECT_LE(student->serving.memory_bytes, hardware.memory_bytes - hardware.reserved_bytes);
    fmt::print("{}/{} against {} devices: {:.1f}B parameters, {} KV heads (published 51B: 371, 49B: 392)\n", input,
               output, devices, student->parameters / 1e9, student->kv_heads);
    return student->parameters;
  };
  EXPECT_GE(parameters(128, 1024, 4), 45e9);
  EXPECT_GE(parameters(2048, 128, 4), 45e9);
  EXPECT_GE(parameters(128, 1024, 2), 45e9);
  EXPECT_GE(parameters(2048, 128, 2), 40e9);
}

}  // namespace
}  // namespace tangram
