#include "blocks/gguf_model.h"

#include <gmock/gmock.h>

#include "blocks/checkpoint.h"
#include "blocks/gguf_names.h"
#include "tests/blocks/folder.h"
#include "tests/blocks/irregular_models.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kAttention{"gqa_2", "gqa_1", "linear", "no_op"},
    kFfn{"ffn_48", "ffn_7", "linear", "no_op"};

struct GgufModel : testing::Test {
  TestFolder folder;

  Model written_and_read(const Model& model, GgufType type, std::vector<FormChange>* changes = nullptr) {
    const auto found = write_gguf_model(folder.path / "m.gguf", model, {.type = type});
    if (changes) *changes = found;
    return load_gguf_model(folder.path / "m.gguf");
  }
};

TEST_F(GgufModel, EveryIrregularityComesBack) {
  ModelConfig config = small_config();
  uint64_t seed = 100;
  for (const Architecture& architecture : irregular_architectures(config, kAttention, kFfn))
    for (const DType dtype : {DType::f32, DType::bf16}) {
      config.tie_word_embeddings = ++seed % 3 == 0;
      if (seed % 2 == 0) config.rope_scaling = RopeScaling{8, 1, 4, 8192};
      const Model model = random_model(config, architecture, dtype, seed);
      std::vector<FormChange> changes;
      const Model read = written_and_read(model, dtype == DType::f32 ? GgufType::f32 : GgufType::bf16, &changes);
      EXPECT_EQ(read.dtype, dtype);
      EXPECT_EQ(read.config.rope_scaling, config.rope_scaling);
      EXPECT_EQ(read.config.tie_word_embeddings, config.tie_word_embeddings);
      std::erase_if(changes, [](const FormChange& c) { return c.text.starts_with("the linear FFN"); });
      const double allowed = changes.empty() ? 0 : dtype == DType::f32 ? 1e-6 : 2e-2;
      ASSERT_LE(relative_difference(logits_of(model), logits_of(read)), allowed) << "seed " << seed;
    }
}

// What 8 bits may change of a weight: 1/225 of the largest of its 32; of rows that cannot be cut so, f16's rounding.
float eight_bit_bound(Tensor t, int64_t r, int64_t c) {
  if (t.rows == 1) return 0;
  const bool cut = t.cols % 32 == 0;
  float largest = 0;
  for (int64_t k = c / 32 * 32; k < std::min(t.cols, c / 32 * 32 + 32); ++k)
    largest = std::max(largest, std::abs(t.row<float>(r)[k]));
  return cut ? largest / 225 : largest * 0x1p-11f;
}

// The bound of the logits is computed, too: as far as they get from the model's when its weights move at random within
// the bounds of theirs, in 16 draws; twice the largest.
TEST_F(GgufModel, EightBitsKeepTheirBound) {
  const ModelConfig config = small_config();
  const Model model = random_model(config, teacher_architecture(config), DType::f32, 4);
  const Model read = written_and_read(model, GgufType::q8_0);
  const std::vector<NamedTensor> before = named_tensors(model), after = named_tensors(read);
  ASSERT_EQ(before.size(), after.size());
  double largest_difference = 0;
  for (uint64_t draw = 0; draw < 16; ++draw) {
    const Model moved = copy_model(model, DType::f32);
    const std::vector<NamedTensor> tensors = named_tensors(moved);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor a = before[i].tensor, b = after[i].tensor, m = tensors[i].tensor;
      ASSERT_TRUE(a.same_shape(b));
      for (int64_t r = 0; r < a.rows; ++r)
        for (int64_t c = 0; c < a.cols; ++c) {
          const float bound = eight_bit_bound(a, r, c);
          ASSERT_LE(std::abs(a.row<float>(r)[c] - b.row<float>(r)[c]), bound) << before[i].name;
          m.row<float>(r)[c] += bound * float(2 * random_uniform(draw, i, uint64_t(r * a.cols + c)) - 1);
        }
    }
    largest_difference = std::max(largest_difference, relative_difference(logits_of(model), logits_of(moved)));
  }
  EXPECT_LE(relative_difference(logits_of(model), logits_of(read)), 2 * largest_difference);
  EXPECT_LT(largest_difference, 0.1);  // the bound bounds something
}

TEST_F(GgufModel, ARegularModelIsALlama) {
  const Model model = small_teacher();
  write_gguf_model(folder.path / "m.gguf", model, {.type = GgufType::f32, .name = "small"});
  const GgufFile file = read_gguf(folder.path / "m.gguf");
  EXPECT_EQ(file.at<std::string>("general.architecture"), "llama");
  EXPECT_EQ(file.at<std::string>("general.name"), "small");
  EXPECT_EQ(file.at<int64_t>("llama.attention.head_count_kv"), 2);
  EXPECT_EQ(logits_of(load_gguf_model(folder.path / "m.gguf")), logits_of(model));
}

// Published values for Llama 3.1 (theta 5e5, heads of 128) and Llama 3.2 1B (heads of 64).
TEST_F(GgufModel, RopeFactorsAreThePublishedOnes) {
  ModelConfig config = small_config();
  config.head_dim = 128, config.rope_theta = 5e5, config.rope_scaling = RopeScaling{8, 1, 4, 8192};
  std::vector<float> factors = rope_factors(config);
  EXPECT_EQ(factors[28], 1);
  const float expected[] = {1.207484f, 1.553415f, 2.026313f, 2.69453f, 3.684253f, 5.257327f, 8};
  for (size_t i = 0; i < std::size(expected); ++i) EXPECT_NEAR(factors[29 + i], expected[i], 1e-5) << i;
  config.head_dim = 64, config.rope_scaling->factor = 32;
  factors = rope_factors(config);
  EXPECT_EQ(factors[14], 1);
  EXPECT_NEAR(factors[15], 1.651329f, 1e-5);
  EXPECT_NEAR(factors[17], 9.666729f, 1e-5);
  EXPECT_EQ(factors[18], 32);
}

TEST_F(GgufModel, WhatTheFormatLacksIsRefused) {
  const ModelConfig config = small_config();
  Architecture architecture = teacher_architecture(config);
  architecture[1].attention = parse_choice(Subblock::attention, "window_4", config);
  const Model model = random_model(config, architecture, DType::f32, 1);
  const auto write = [&](const Model& m, GgufType type) {
    return message_of([&] { write_gguf_model(folder.path / "m.gguf", m, {.type = type}); });
  };
  EXPECT_THAT(write(model, GgufType::f32), HasSubstr("layer 1: window_4: the format has no windows"));
  const Model large = small_teacher();
  large.blocks[0].ffn.params[0].values.as<float>()[5] = 70000;
  EXPECT_THAT(write(large, GgufType::f16), HasSubstr("tensor 'blk.0.ffn_gate.weight': a value beyond 65504"));
  EXPECT_EQ(write(large, GgufType::bf16), "");
}

struct GgufTokenizer : testing::Test {
  static GgufMetadata keys_of(const char* model, const char* rest, int64_t vocab) {
    const std::string json = fmt::format(R"({{"model":{{"type":"BPE",{}}},{}}})", model, rest);
    return gguf_tokenizer(parse_tokenizer(json, "{}", "t"), vocab);
  }
  static GgufValue at(const GgufMetadata& keys, const std::string& key) {
    for (const auto& [name, value] : keys)
      if (name == "tokenizer.ggml." + key) return value;
    return {};
  }
  using Texts = std::vector<std::string>;
  using Integers = std::vector<int64_t>;
};

TEST_F(GgufTokenizer, CharactersAreSpelledAsBytes) {
  const GgufMetadata keys = keys_of(R"("vocab":{" ":0,"a":1,"\n":2},"merges":[])", R"("decoder":{"type":"Fuse"})", 4);
  EXPECT_EQ(at(keys, "model"), GgufValue("gpt2"));
  EXPECT_EQ(at(keys, "tokens"), GgufValue(Texts{"Ġ", "a", "Ċ", "[PAD3]"}));
  EXPECT_EQ(at(keys, "token_type"), GgufValue(Integers{1, 1, 1, 5}));
}

TEST_F(GgufTokenizer, OtherSplitsAreRefused) {
  EXPECT_THAT(message_of([] {
                keys_of(R"("vocab":{"a":0,"b":1,"ab":2},"merges":["a b"])", R"("decoder":{"type":"Fuse"})", 3);
              }),
              HasSubstr("neither byte-level, nor falls back to bytes"));
}

TEST_F(GgufTokenizer, OfStoriesFallsBackToBytes) {
  const auto path = test_data() / "stories260k";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
  const Tokenizer tokenizer = load_tokenizer(path);
  const GgufMetadata keys = gguf_tokenizer(tokenizer, 512);
  EXPECT_EQ(at(keys, "model"), GgufValue("llama"));
  const auto types = std::get<Integers>(at(keys, "token_type"));
  EXPECT_EQ(types[0], 2);
  EXPECT_EQ(types[1], 3);
  EXPECT_EQ(types[3], 6);
  EXPECT_EQ(types[300], 1);
  const auto scores = std::get<std::vector<double>>(at(keys, "scores"));
  EXPECT_EQ(std::get<Texts>(at(keys, "tokens"))[259], "▁t");
  EXPECT_EQ(scores[259], -1);  // the first merge
  EXPECT_EQ(scores[260], -2);
}

}  // namespace
}  // namespace tangram
