#include "blocks/servers.h"

#include <gmock/gmock.h>

#include "tests/blocks/folder.h"
#include "tests/blocks/irregular_models.h"

namespace tangram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// What one server makes of one irregularity, by the table of the servers' sources: layers as `attention ffn`.
struct Row {
  std::string_view what;
  std::vector<std::pair<std::string_view, std::string_view>> layers;
  /// Of llama.cpp, vllm, sglang, tensorrt-llm, megatron: `runs` as it is, `rewritten` into equal forms, `cannot`.
  std::array<std::string_view, 5> answers;
};

constexpr std::string_view kRuns = "runs", kRewritten = "rewritten", kCannot = "cannot";

const Row kRows[] = {
    {"the teacher", {{"gqa_2", "ffn_48"}, {"gqa_2", "ffn_48"}}, {kRuns, kRuns, kRuns, kRuns, kRuns}},
    {"one number of KV heads that is not the teacher's",
     {{"gqa_1", "ffn_48"}, {"gqa_1", "ffn_48"}},
     {kRuns, kRuns, kRewritten, kRewritten, kRuns}},
    {"KV heads by layer", {{"gqa_2", "ffn_48"}, {"gqa_1", "ffn_48"}}, {kRuns, kRuns, kCannot, kRewritten, kCannot}},
    {"widths of 256 by layer, without attention in one",
     {{"gqa_2", "ffn_256"}, {"no_op", "ffn_512"}, {"gqa_2", "ffn_256"}},
     {kRuns, kRuns, kRuns, kRuns, kRuns}},
    {"KV heads by layer, widths of 256",
     {{"gqa_2", "ffn_256"}, {"no_op", "ffn_256"}, {"gqa_1", "ffn_256"}},
     {kRuns, kRuns, kCannot, kRuns, kCannot}},
    {"no attention in the first layer",
     {{"no_op", "ffn_256"}, {"gqa_2", "ffn_256"}},
     {kRewritten, kRewritten, kRewritten, kRuns, kRewritten}},
    {"linear attention", {{"gqa_2", "ffn_256"}, {"linear", "ffn_256"}}, {kRuns, kCannot, kCannot, kRuns, kCannot}},
    {"attention without an FFN, before one with",
     {{"gqa_2", "no_op"}, {"gqa_2", "ffn_256"}},
     {kRewritten, kRuns, kRuns, kRuns, kRuns}},
    {"attention without an FFN at last",
     {{"gqa_2", "ffn_256"}, {"gqa_2", "no_op"}},
     {kRewritten, kRuns, kRuns, kRuns, kRuns}},
    {"neither in one layer",
     {{"gqa_2", "ffn_256"}, {"no_op", "no_op"}, {"gqa_2", "ffn_256"}},
     {kRewritten, kRuns, kRuns, kRuns, kRuns}},
    {"a linear FFN", {{"gqa_2", "ffn_256"}, {"gqa_2", "linear"}}, {kRewritten, kCannot, kCannot, kRuns, kCannot}},
    {"an odd width", {{"gqa_2", "ffn_256"}, {"gqa_2", "ffn_7"}}, {kRuns, kRuns, kRewritten, kRewritten, kRuns}},
    {"a window", {{"gqa_2", "ffn_256"}, {"window_16", "ffn_256"}}, {kCannot, kCannot, kCannot, kCannot, kCannot}},
};

/// A model whose teacher's own FFN is `width` wide.
ModelConfig wide_config(int64_t width, int64_t layers) {
  ModelConfig config = small_config();
  config.intermediate_size = width, config.num_hidden_layers = layers;
  return config;
}

Architecture architecture_of(const Row& row, const ModelConfig& config) {
  Architecture blocks;
  for (const auto& [attention, ffn] : row.layers)
    blocks.push_back({parse_choice(Subblock::attention, attention, config), parse_choice(Subblock::ffn, ffn, config)});
  return blocks;
}

std::string_view answer_of(const ServerCheck& check) {
  if (!check.runs()) return kCannot;
  return check.plan.changes.empty() ? kRuns : kRewritten;
}

TEST(Servers, RunRewriteAndRefuseAsTheirSourcesSay) {
  const std::array<std::string, 5> names{"llama.cpp", "vllm", "sglang", "tensorrt-llm", "megatron"};
  ASSERT_EQ(all_servers().size(), names.size());
  for (const Row& row : kRows) {
    const ModelConfig config = wide_config(row.layers[0].second == "ffn_48" ? 48 : 512, std::ssize(row.layers));
    const Architecture blocks = architecture_of(row, config);
    for (size_t s = 0; s < names.size(); ++s)
      EXPECT_EQ(answer_of(check_server(server_called(names[s]), blocks, config)), row.answers[s])
          << names[s] << ": " << row.what;
  }
}

std::vector<std::string> texts_of(std::span<const FormChange> changes) {
  std::vector<std::string> texts;
  for (const FormChange& c : changes) texts.push_back(fmt::format("{}: {}", c.layer, c.text));
  return texts;
}

TEST(Servers, NameLayersAndReasons) {
  const ModelConfig config = wide_config(512, 4);
  const Row row{"",
                {{"linear", "ffn_256"}, {"gqa_2", "linear"}, {"window_16", "ffn_256"}, {"gqa_1", "ffn_7"}},
                {kCannot, kCannot, kCannot, kCannot, kCannot}};
  const Architecture blocks = architecture_of(row, config);
  EXPECT_THAT(texts_of(check_server(server_called("sglang"), blocks, config).obstacles),
              ElementsAre("0: a linear attention", "1: a linear ffn", "2: window_16: attention over a window",
                          "3: 1 KV heads where the layers before have 2; it wants one number"));
  const ServerCheck llama = check_server(server_called("llama.cpp"), blocks, config);
  EXPECT_THAT(texts_of(llama.obstacles), ElementsAre("2: window_16: attention over a window"));
  EXPECT_THAT(texts_of(llama.plan.changes), ElementsAre("1: the linear FFN is a SwiGLU whose gate is 1"));
  const ServerCheck vllm = check_server(server_called("vllm"), blocks, config);
  EXPECT_THAT(texts_of(vllm.plan.changes), ElementsAre("0: the linear attention is the FFN of a block of its own",
                                                       "0: the first block, without attention, beside an idle one"));
}

// Of kinds that a table of another tool may have, nobody knows.
TEST(Servers, AreAskedByNameAlone) {
  const Server &llama = server_called("llama.cpp"), &sglang = server_called("sglang");
  for (const char* name : {"gqa_4", "gqa_128", "linear", "no_op"})
    EXPECT_EQ(obstacle_of(llama, Subblock::attention, name), "") << name;
  for (const char* name : {"ffn_1", "ffn_53248", "linear", "no_op"})
    EXPECT_EQ(obstacle_of(llama, Subblock::ffn, name), "") << name;
  EXPECT_EQ(obstacle_of(sglang, Subblock::ffn, "linear"), "a linear ffn");
  EXPECT_EQ(obstacle_of(llama, Subblock::attention, "window_256"), "window_256: attention over a window");
  for (const char* name : {"mamba_16", "gqa", "gqa_", "gqa_x", "gqa_4x", "gqa_0", "linear_4", "ffn_64", "window"})
    EXPECT_EQ(obstacle_of(llama, Subblock::attention, name), std::string(name) + ": no attention that it knows");
  EXPECT_EQ(kv_heads_of("gqa_16"), 16);
  for (const char* name : {"linear", "no_op", "window_256", "gqa_", "mha_8", ""}) EXPECT_EQ(kv_heads_of(name), 0);
}

TEST(Servers, ReadSoManyLayersAtMost) {
  const Server& llama = server_called("llama.cpp");
  const auto runs = [&](int64_t layers) {
    const ModelConfig config = wide_config(48, layers);
    return check_server(llama, teacher_architecture(config), config).runs();
  };
  EXPECT_TRUE(runs(512));
  EXPECT_FALSE(runs(513));
}

TEST(Servers, UnknownOnesGetTheNearestName) {
  EXPECT_THAT(message_of([] { server_called("vlm"); }), HasSubstr("no server 'vlm'; did you mean 'vllm'?"));
  const std::vector<std::string> twice{"vllm", "llama.cpp", "vllm"}, all{"megatron", "all"};
  EXPECT_THAT(servers_called(twice), ElementsAre(&server_called("vllm"), &server_called("llama.cpp")));
  EXPECT_EQ(servers_called(all).size(), all_servers().size());
}

}  // namespace
}  // namespace tangram
