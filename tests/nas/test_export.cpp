// `tangram export`: models in the forms of the servers that read them.
#include <gmock/gmock.h>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "blocks/gguf_model.h"
#include "blocks/servers.h"
#include "nas/commands.h"
#include "nas/model_export.h"
#include "nas/model_verbs.h"
#include "tests/blocks/folder.h"
#include "tests/blocks/irregular_models.h"
#include "tests/nas/command_line.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ExportTest : public testing::Test {
 protected:
  Outcome call(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"export", path("model")});
    arguments.insert(arguments.end(), {"--threads", "1"});
    return call_with(arguments, {}, all_model_verbs());
  }
  std::string path(const std::string& name) const { return folder.path / name; }
  Model save(const Architecture& architecture) {
    const Model model = random_model(config, architecture, DType::f32, ++seed);
    save_model(folder.path / "model", model);
    return model;
  }
  Architecture blocks(const std::vector<std::pair<const char*, const char*>>& choices) const {
    Architecture architecture;
    for (const auto& [a, f] : choices)
      architecture.push_back({parse_choice(Subblock::attention, a, config), parse_choice(Subblock::ffn, f, config)});
    return architecture;
  }

  TestFolder folder;
  const ModelConfig config = small_config();
  uint64_t seed = 0;
};

// Zeros in sums change at most the order in which products add: 1e-6 of the largest logit.
TEST_F(ExportTest, PadsWidthsToWhatAnFfnMultSays) {
  const Model model = save(blocks({{"gqa_1", "ffn_7"}, {"linear", "no_op"}, {"no_op", "ffn_48"}, {"gqa_2", "linear"}}));
  ASSERT_EQ(call({"--out", path("padded"), "--pad"}).code, 0);
  const Model padded = load_model(folder.path / "padded");
  EXPECT_EQ(padded.architecture()[0].ffn.name() + padded.architecture()[2].ffn.name(), "ffn_256ffn_256");
  EXPECT_LE(relative_difference(logits_of(model), logits_of(padded)), 1e-6);
  const std::string written = read_text_file(folder.path / "padded" / "config.json", 1 << 20);
  EXPECT_THAT(written, HasSubstr("ffn_mult\": 12.0"));  // 2 x 12 x 32 / 3 = 256
  EXPECT_THAT(read_text_file(folder.path / "model" / "config.json", 1 << 20), HasSubstr("intermediate_size\": 7"));
}

TEST_F(ExportTest, PadsAPlainModelToAPlainModel) {
  const Model model = save(teacher_architecture(config));
  ASSERT_EQ(call({"--out", path("padded"), "--pad"}).code, 0);
  const Model padded = load_model(folder.path / "padded");
  EXPECT_EQ(padded.config.intermediate_size, 256);
  EXPECT_EQ(padded.architecture(), teacher_architecture(padded.config));
  EXPECT_LE(relative_difference(logits_of(model), logits_of(padded)), 1e-6);
}

// Each server's own check finds nothing more to rewrite in what is adapted for it, and the model is the same.
TEST(AdaptedModel, IsWhatEveryServerRunsAsItIs) {
  const ModelConfig config = small_config();
  Console quiet(stderr, false, true);
  int adapted = 0, refused = 0;
  uint64_t seed = 0;
  for (const Architecture& architecture :
       irregular_architectures(config, {"gqa_2", "gqa_1", "linear", "no_op"}, {"ffn_48", "ffn_7", "no_op"})) {
    const Model model = random_model(config, architecture, DType::f32, ++seed);
    for (const char* name : {"vllm", "sglang", "tensorrt-llm", "megatron"}) {
      const Server& server = server_called(name);
      if (!check_server(server, architecture, model.config).runs()) {
        ASSERT_THAT(message_of([&] { adapted_model(model, &server, false, quiet); }),
                    HasSubstr(std::string(name) + " cannot run this model:\n    layer"));
        ++refused;
        continue;
      }
      const Model result = adapted_model(model, &server, false, quiet);
      const ServerCheck again = check_server(server, result.architecture(), result.config);
      ASSERT_TRUE(again.runs() && again.plan.changes.empty()) << name << " seed " << seed;
      ASSERT_LE(relative_difference(logits_of(model), logits_of(result)), 1e-6) << name << " seed " << seed;
      ++adapted;
    }
  }
  EXPECT_GT(adapted, 100);
  EXPECT_GT(refused, 100);
}

TEST_F(ExportTest, WritesWhatAServerRunsAsItIs) {
  const Model model = save(blocks({{"no_op", "ffn_7"}, {"gqa_2", "no_op"}, {"no_op", "no_op"}, {"gqa_2", "ffn_48"}}));
  for (const char* name : {"vllm", "sglang", "tensorrt-llm", "megatron"}) {
    ASSERT_EQ(call({"--out", path("out"), "--for", name}).code, 0);
    const Model read = load_model(folder.path / "out");
    const ServerCheck again = check_server(server_called(name), read.architecture(), read.config);
    EXPECT_TRUE(again.runs() && again.plan.changes.empty()) << name;
    EXPECT_LE(relative_difference(logits_of(model), logits_of(read)), 1e-6) << name;
  }
}

TEST_F(ExportTest, NamesWhatAServerCannotRun) {
  save(blocks({{"gqa_2", "linear"}, {"gqa_1", "ffn_48"}, {"gqa_1", "linear"}}));
  const Outcome sglang = call({"--out", path("out"), "--for", "sglang"});
  EXPECT_EQ(sglang.code, 3);
  EXPECT_THAT(sglang.err, HasSubstr("sglang cannot run this model:"));
  EXPECT_THAT(sglang.err, HasSubstr("layers 0, 2: a linear ffn"));
  EXPECT_THAT(sglang.err, HasSubstr("layers 1-2: 1 KV heads where the layers before have 2"));
  save(blocks({{"gqa_2", "ffn_48"}, {"window_3", "ffn_7"}, {"no_op", "no_op"}}));
  const Outcome windows = call({"--out", path("out.gguf"), "--for", "llama.cpp"});
  EXPECT_EQ(windows.code, 3);
  EXPECT_THAT(windows.err, HasSubstr("layer 1: window_3: attention over a window"));
  EXPECT_FALSE(fs::exists(path("out")) || fs::exists(path("out.gguf")));
}

TEST_F(ExportTest, TheServerDecidesTheFormat) {
  const Model model = save(blocks({{"gqa_1", "ffn_7"}, {"linear", "linear"}, {"gqa_2", "no_op"}}));
  ASSERT_EQ(call({"--out", path("student"), "--for", "llama.cpp"}).code, 0);
  EXPECT_LE(relative_difference(logits_of(model), logits_of(load_gguf_model(path("student")))), 1e-6);
  const Outcome clash = call({"--out", path("out"), "--for", "llama.cpp", "--format", "huggingface"});
  EXPECT_EQ(clash.code, 2);
  EXPECT_THAT(clash.err, HasSubstr("--format huggingface: llama.cpp reads gguf"));
  EXPECT_THAT(call({"--out", path("out"), "--for", "vllm", "--format", "gguf_f16"}).err,
              HasSubstr("--format gguf_f16: vllm reads huggingface"));
  EXPECT_THAT(call({"--out", path("out"), "--for", "vlm"}).err, HasSubstr("did you mean 'vllm'?"));
  EXPECT_EQ(call({"--check", "vllm", "--pad"}).code, 2);
}

TEST_F(ExportTest, WritesAPerLayerConfigBitForBit) {
  const Model model = save(blocks({{"gqa_1", "ffn_7"}, {"no_op", "ffn_48"}, {"gqa_2", "no_op"}}));
  ASSERT_EQ(call({"--out", path("out"), "--format", "per_layer_config"}).code, 0);
  EXPECT_EQ(logits_of(load_model(folder.path / "out")), logits_of(model));
  EXPECT_EQ(read_config(folder.path / "out").architecture, model.architecture());
  save(blocks({{"gqa_1", "linear"}, {"gqa_2", "ffn_48"}, {"linear", "no_op"}}));
  const Outcome linear = call({"--out", path("linear"), "--format", "per_layer_config"});
  EXPECT_EQ(linear.code, 2);
  EXPECT_THAT(linear.err, HasSubstr("no words for ffn linear in layer 0, attention linear in layer 2"));
}

}  // namespace
}  // namespace tangram
