#include "blocks/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "blocks/config_json.h"
#include "blocks/file.h"
#include "blocks/safetensors.h"
#include "kernels/random.h"
#include "tests/blocks/damage.h"
#include "tests/blocks/folder.h"
#include "tests/own_sequences.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

ModelConfig small_config(bool tied) {
  ModelConfig c;
  c.vocab_size = 19, c.hidden_size = 20, c.intermediate_size = 24, c.num_hidden_layers = 4;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 8, c.max_position_embeddings = 64;
  c.tie_word_embeddings = tied, c.eos_token_ids = {2, 3};
  return c;
}

// Every kind of variant stands somewhere in it.
Architecture irregular(const ModelConfig& config) {
  const auto a = [&](const char* text) { return parse_choice(Subblock::attention, text, config); };
  const auto f = [&](const char* text) { return parse_choice(Subblock::ffn, text, config); };
  return {{a("gqa_1"), f("ffn_24")}, {a("linear"), f("no_op")}, {a("window_3"), f("ffn_7")}, {a("no_op"), f("linear")}};
}

Model random_model(const ModelConfig& config, const Architecture& architecture, DType dtype) {
  Model model = make_model(config, architecture, dtype);
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model)) {
    dispatch(dtype, [&]<class T>() {
      for (int64_t i = 0; i < t.tensor.size(); ++i)
        t.tensor.as<T>()[i] = T(float(random_normal(3, stream, uint64_t(i)) / std::sqrt(double(t.tensor.cols))));
    });
    ++stream;
  }
  return model;
}

void expect_same_weights(const Model& a, const Model& b) {
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_EQ(a.config, b.config);
  EXPECT_EQ(a.architecture(), b.architecture());
  const std::vector<NamedTensor> x = named_tensors(a), y = named_tensors(b);
  ASSERT_EQ(x.size(), y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(x[i].name, y[i].name);
    ASSERT_TRUE(x[i].tensor.same_shape(y[i].tensor) && x[i].tensor.dtype == y[i].tensor.dtype) << x[i].name;
    EXPECT_EQ(std::memcmp(x[i].tensor.data, y[i].tensor.data, size_t(x[i].tensor.bytes())), 0) << x[i].name;
  }
}

std::vector<float> logits_of(const Model& model, const std::vector<int32_t>& tokens, Context& ctx) {
  Arena arena(1 << 24);
  const int32_t lengths[] = {static_cast<int32_t>(tokens.size())};
  const OwnSequences batch(model.config, lengths);
  const Tensor hidden = arena.tensor(batch.tokens(), model.config.hidden_size, model.dtype);
  const Tensor logits = arena.tensor(batch.tokens(), model.config.vocab_size, DType::f32);
  model_hidden(hidden, model, tokens, batch.view(), ctx);
  model_logits(logits, model, hidden, ctx);
  return {logits.as<float>(), logits.as<float>() + logits.size()};
}

// Other writers order tensors by name, so that the parameters of a subblock lie apart.
Model in_reverse_order(const Model& model, const fs::path& folder) {
  save_model(folder, model);
  std::vector<NamedTensor> tensors = named_tensors(model);
  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(folder / "model.safetensors", tensors);
  return load_model(folder);
}

class RoundTrip : public testing::TestWithParam<std::tuple<bool, DType, bool>> {};

TEST_P(RoundTrip, GivesTheSameWeightsAndLogitsBitForBit) {
  const auto [tied, dtype, sharded] = GetParam();
  const TestFolder folder;
  Context ctx({.threads = 1, .scratch_bytes = 1 << 26});
  const ModelConfig config = small_config(tied);
  for (const Architecture& architecture : {teacher_architecture(config), irregular(config)}) {
    const Model made = random_model(config, architecture, dtype);
    for (const Model& model : {made, in_reverse_order(made, folder.path / "reversed")}) {
      save_model(folder.path / "m", model, {.tokenizer_from = {}, .max_shard_bytes = sharded ? 4000 : 1 << 30});
      EXPECT_EQ(fs::exists(folder.path / "m" / "model.safetensors.index.json"), sharded);
      const Model loaded = load_model(folder.path / "m");
      expect_same_weights(loaded, model);
      EXPECT_EQ(loaded.head.values.data == loaded.embedding.values.data, tied);
      EXPECT_EQ(logits_of(loaded, {1, 5, 18, 3, 3}, ctx), logits_of(model, {1, 5, 18, 3, 3}, ctx));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoint, RoundTrip,
                         testing::Combine(testing::Bool(), testing::Values(DType::f32, DType::bf16), testing::Bool()));

TEST(Checkpoint, WritesTheSameBytesTwice) {
  const TestFolder folder;
  const ModelConfig config = small_config(false);
  const Model model = random_model(config, irregular(config), DType::bf16);
  save_model(folder.path / "a", model);
  save_model(folder.path / "b", load_model(folder.path / "a"));
  for (const char* file : {"config.json", "model.safetensors"})
    EXPECT_EQ(read_text_file(folder.path / "a" / file, 1 << 20), read_text_file(folder.path / "b" / file, 1 << 20));
}

TEST(Checkpoint, MapsWhatIsStoredInTheWantedDtype) {
  const TestFolder folder;
  const Model model = random_model(small_config(false), teacher_architecture(small_config(false)), DType::bf16);
  save_model(folder.path / "m", model);
  const Model loaded = load_model(folder.path / "m", DType::bf16);
  ASSERT_EQ(loaded.memory.size(), 1u);
  const std::string_view file = static_cast<const MappedFile*>(loaded.memory[0].get())->bytes();
  for (const NamedTensor& t : named_tensors(loaded)) {
    const char* data = static_cast<const char*>(t.tensor.data);
    EXPECT_TRUE(data >= file.data() && data + t.tensor.bytes() <= file.data() + file.size()) << t.name;
  }
}

// Bytes of this process that no file stands behind; -1 where the system does not say. Unlike the counters in
// /proc/self/status, which each processor keeps for itself for a while, these are counted page by page.
int64_t anonymous_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("Anonymous:")) return 1024 * std::stoll(line.substr(line.find(':') + 1));
  return -1;
}

// Oracle: the system's own count. A copy of the weights would be 64 MiB.
TEST(Checkpoint, CostsNoMemoryBesideThePageCache) {
  if (anonymous_bytes() < 0) GTEST_SKIP() << "no /proc/self/smaps_rollup";
  const TestFolder folder;
  ModelConfig config = small_config(false);
  config.vocab_size = 1 << 15, config.hidden_size = 256;  // embedding and head of 32 MiB each
  {
    const Model shapes = make_model(config, teacher_architecture(config), DType::f32);
    const std::vector<NamedTensor> tensors = named_tensors(shapes);
    int64_t bytes = 0;
    for (const NamedTensor& t : tensors) bytes += t.tensor.bytes();
    ASSERT_GE(bytes, int64_t{64} << 20);
    write_text(folder.path / "config.json", config_json(config, shapes.architecture(), DType::f32));
    const std::string header = safetensors_header(tensors);
    write_text(folder.path / "model.safetensors", header);
    fs::resize_file(folder.path / "model.safetensors", header.size() + size_t(bytes));  // zeros, and no disk
  }
  const int64_t before = anonymous_bytes();
  const Model model = load_model(folder.path);
  double sum = 0;
  for (const NamedTensor& t : named_tensors(model))
    for (int64_t i = 0; i < t.tensor.size(); ++i) sum += double(t.tensor.as<float>()[i]);
  EXPECT_EQ(sum, 0);
  EXPECT_LT(anonymous_bytes() - before, 1 << 20);
}

TEST(Checkpoint, ConvertsOtherDtypes) {
  const TestFolder folder;
  const ModelConfig config = small_config(true);
  const Model model = random_model(config, irregular(config), DType::f32);
  save_model(folder.path / "f32", model);
  expect_same_weights(load_model(folder.path / "f32", DType::bf16), copy_model(model, DType::bf16));
  const Model narrow = copy_model(model, DType::bf16);
  save_model(folder.path / "bf16", narrow);
  expect_same_weights(load_model(folder.path / "bf16", DType::f32), copy_model(narrow, DType::f32));
}

TEST(Checkpoint, ReadsHalfPrecisionAsF32) {
  const TestFolder folder;
  const Model model = random_model(small_config(true), teacher_architecture(small_config(true)), DType::f32);
  save_model(folder.path / "m", model);
  std::vector<std::vector<uint16_t>> halves;
  std::vector<NamedTensor> tensors = named_tensors(model);
  for (NamedTensor& t : tensors) {
    std::vector<uint16_t>& half = halves.emplace_back();
    float* values = t.tensor.as<float>();
    for (int64_t i = 0; i < t.tensor.size(); ++i) {
      half.push_back(f32_to_f16(values[i]));
      values[i] = f16_to_f32(half.back());  // the expected value
    }
    t.tensor.data = half.data(), t.tensor.dtype = DType::f16;
  }
  write_safetensors(folder.path / "m" / "model.safetensors", tensors);
  expect_same_weights(load_model(folder.path / "m"), model);
}

TEST(Checkpoint, CopiesTheTokenizer) {
  const TestFolder folder;
  fs::create_directory(folder.path / "teacher");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "other.json"})
    write_text(folder.path / "teacher" / name, name);
  const Model model = random_model(small_config(true), teacher_architecture(small_config(true)), DType::f32);
  save_model(folder.path / "m", model, {.tokenizer_from = folder.path / "teacher"});
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    EXPECT_EQ(read_text_file(folder.path / "m" / name, 100), name);
  EXPECT_FALSE(fs::exists(folder.path / "m" / "other.json"));
}

TEST(Checkpoint, ReplacesOnlyAModel) {
  const TestFolder folder;
  const Model model = random_model(small_config(true), teacher_architecture(small_config(true)), DType::f32);
  fs::create_directory(folder.path / "m");
  save_model(folder.path / "m", model);
  save_model(folder.path / "m", load_model(folder.path / "m"));  // its weights are mapped from what is replaced
  expect_same_weights(load_model(folder.path / "m"), model);
  fs::create_directory(folder.path / "home");
  write_text(folder.path / "home" / "letter", "dear");
  EXPECT_EQ(
      message_of([&] { save_model(folder.path / "home", model); }),
      (folder.path / "home").string() + ": this folder is not empty and holds no model; give another, or delete it");
  EXPECT_EQ(read_text_file(folder.path / "home" / "letter", 100), "dear");
}

class DamagedModel : public testing::Test {
 protected:
  void SetUp() override {
    model = random_model(config, irregular(config), DType::f32);
    save_model(folder.path, model);
  }

  // What is said when `change` was made to the list of tensors.
  std::string refusal(const std::function<void(std::vector<NamedTensor>&)>& change) {
    std::vector<NamedTensor> tensors = named_tensors(model);
    change(tensors);
    write_safetensors(file, tensors);
    return message_of([&] { load_model(folder.path); });
  }

  static NamedTensor& find(std::vector<NamedTensor>& tensors, std::string_view name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& t) { return t.name == name; });
  }

  const TestFolder folder;
  const fs::path file = folder.path / "model.safetensors";
  const std::string where = file.string() + ": ";
  ModelConfig config = small_config(true);
  Model model;
};

TEST_F(DamagedModel, IsRefusedByTheNameOfTheTensor) {
  EXPECT_EQ(refusal([](auto&) {}), "");
  EXPECT_EQ(refusal([](auto& t) { std::swap(find(t, "model.norm.weight").name, t.back().name); }), "");
  EXPECT_EQ(refusal([](auto& t) { find(t, "model.norm.weight").name = "model.nrm.weight"; }),
            where + "no tensor 'model.norm.weight'; the nearest is 'model.nrm.weight'; config.json asks for it");
  EXPECT_EQ(refusal([](auto& t) {
              t.push_back({"model.layers.3.input_layernorm.weight", t.back().tensor});
            }),
            where +
                "tensor 'model.layers.3.input_layernorm.weight' belongs to no part of the model that config.json "
                "describes; the nearest that does is 'model.layers.0.input_layernorm.weight'");
  EXPECT_EQ(refusal([](auto& t) {
              Tensor& gate = find(t, "model.layers.0.mlp.gate_proj.weight").tensor;
              gate = gate.reshape(20, 24);
            }),
            where +
                "tensor 'model.layers.0.mlp.gate_proj.weight' is (20, 24) where (24, 20) is expected; config.json asks "
                "for it");
  EXPECT_EQ(refusal([](auto& t) { find(t, "model.norm.weight").tensor.dtype = DType::i32; }),
            where + "tensor 'model.norm.weight' is i32; allowed: f32, bf16, f16");
}

TEST_F(DamagedModel, MayRepeatATiedHead) {
  const Tensor embedding = model.embedding.values;
  EXPECT_EQ(refusal([&](auto& t) { t.push_back({"lm_head.weight", embedding}); }), "");
  std::vector<float> other(size_t(embedding.size()), 1.0f);
  EXPECT_EQ(refusal([&](auto& t) {
              t.push_back({"lm_head.weight", view_of(other.data(), embedding.rows, embedding.cols)});
            }),
            where + "lm_head.weight is stored, and not as the embedding, though tie_word_embeddings is true");
  EXPECT_EQ(refusal([&](auto& t) {
              t.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", view_of(other.data(), 1, 4)});
            }),
            "");
}

TEST_F(DamagedModel, IsRefusedIfTheConfigDisagrees) {
  const fs::path json_file = folder.path / "config.json";
  change_json(json_file, [](json& j) { j["tie_word_embeddings"] = false; });
  EXPECT_EQ(refusal([](auto&) {}), where + "no tensor 'lm_head.weight'; config.json asks for it");
  change_json(json_file, [](json& j) { j["tie_word_embeddings"] = true, j["vocab_size"] = 20; });
  EXPECT_EQ(
      refusal([](auto&) {}),
      where + "tensor 'model.embed_tokens.weight' is (19, 20) where (20, 20) is expected; config.json asks for it");
}

TEST_F(DamagedModel, IsRefusedIfItIsCutShort) {
  const std::string content = read_text_file(file, 1 << 20);
  for (const size_t bytes : {size_t{0}, size_t{7}, size_t{100}, content.size() / 2, content.size() - 1}) {
    write_text(file, std::string_view(content).substr(0, bytes));
    const std::string message = message_of([&] { load_model(folder.path); });
    EXPECT_TRUE(message.starts_with(where)) << bytes << ": " << message;
  }
  fs::remove(folder.path / "config.json");
  EXPECT_EQ(message_of([&] { load_model(folder.path); }),
            (folder.path / "config.json").string() + ": cannot be read: No such file or directory");
}

// Oracle: logits of an independent implementation, stored beside the model.
TEST(Checkpoint, LoadsATrainedModel) {
  const fs::path data = test_data() / "stories260k";
  if (!fs::exists(data)) GTEST_SKIP() << data << " is not there; TANGRAM_TEST_DATA says where it is";
  const Model model = load_model(data);
  EXPECT_EQ(model.dtype, DType::f32);
  EXPECT_EQ(model.architecture(), teacher_architecture(model.config));
  const SafeTensors reference = read_safetensors(data / "reference.safetensors");
  const Tensor ids = reference.at("input_ids", 1, 64), expected = reference.at("logits", 64, 512);
  const std::vector<int32_t> tokens(ids.as<int32_t>(), ids.as<int32_t>() + 64);
  Context ctx({.threads = 1, .scratch_bytes = 1 << 26});
  const std::vector<float> logits = logits_of(model, tokens, ctx);
  for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected.as<float>()[i], 1e-4) << i;

  const TestFolder folder;
  save_model(folder.path / "m", model, {.tokenizer_from = data, .max_shard_bytes = 300'000});
  const Model again = load_model(folder.path / "m");
  expect_same_weights(again, model);
  EXPECT_EQ(logits_of(again, tokens, ctx), logits);
  EXPECT_TRUE(fs::exists(folder.path / "m" / "tokenizer.json"));
}

// Models that transformers has a class for need no code of ours.
TEST(Checkpoint, IrregularModelsCarryTheCodeThatReadsThem) {
  const ModelConfig config = small_config(true);
  const TestFolder folder;
  save_model(folder.path / "irregular", random_model(config, irregular(config), DType::f32));
  save_model(folder.path / "plain", random_model(config, teacher_architecture(config), DType::f32));
  for (const std::string file : {"configuration_decilm.py", "modeling_decilm.py"}) {
    EXPECT_EQ(read_text_file(folder.path / "irregular" / file, 1 << 20),
              read_text_file(fs::path(TANGRAM_SOURCE_DIR) / "blocks/huggingface" / file, 1 << 20));
    EXPECT_FALSE(fs::exists(folder.path / "plain" / file));
  }
}

TEST(Checkpoint, IrregularModelsOfAPerLayerConfigReadBack) {
  const ModelConfig config = small_config(false);
  const auto a = [&](const char* text) { return parse_choice(Subblock::attention, text, config); };
  const auto f = [&](const char* text) { return parse_choice(Subblock::ffn, text, config); };
  const Model model = random_model(
      config, {{a("gqa_1"), f("ffn_24")}, {a("gqa_2"), f("no_op")}, {a("no_op"), f("ffn_7")}, {a("no_op"), f("no_op")}},
      DType::bf16);
  const TestFolder folder;
  const SaveOptions options{.irregular = IrregularForm::per_layer_config, .tokenizer_from = {}};
  save_model(folder.path / "model", model, options);
  expect_same_weights(load_model(folder.path / "model"), model);
  EXPECT_FALSE(fs::exists(folder.path / "model" / "modeling_decilm.py"));
  // What the form has no words for leaves nothing behind.
  EXPECT_THROW(save_model(folder.path / "other", random_model(config, irregular(config), DType::f32), options), Error);
  EXPECT_FALSE(fs::exists(folder.path / "other"));
}

}  // namespace
}  // namespace tangram
