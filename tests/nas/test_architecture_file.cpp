#include "nas/architecture_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/blocks/folder.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;

constexpr const char* kStudent = R"(name: student
target: "half: chat"
method: mip
objective: kl_divergence
proven: true
predicted:
  kl_divergence: 0.1
  memory: 123456789
blocks:
  - {attention: gqa_1, ffn: ffn_48, trained: apart}
  - {attention: no_op, ffn: ffn_24, trained: together}
  - {attention: window_16, ffn: linear, trained: apart}
)";

TEST(ArchitectureFile, SaysInItsTextWhatTheSearchChose) {
  ChosenArchitecture a;
  a.name = "student", a.target = "half: chat", a.method = "mip", a.objective = "kl_divergence", a.proven = true;
  a.predicted = {{"kl_divergence", 0.1}, {"memory", 123456789}};
  a.blocks = {{"gqa_1", "ffn_48"}, {"no_op", "ffn_24", 1, true}, {"window_16", "linear"}};
  EXPECT_EQ(architecture_yaml(a), kStudent);

  const TestFolder folder;
  write_architecture(folder.path / "architectures/student.yaml", a);
  const ChosenArchitecture read = read_architecture(folder.path / "architectures/student.yaml");
  EXPECT_EQ(read.name, a.name);
  EXPECT_EQ(read.target, a.target);
  EXPECT_EQ(read.method, a.method);
  EXPECT_EQ(read.objective, a.objective);
  EXPECT_EQ(read.proven, a.proven);
  EXPECT_EQ(read.predicted, a.predicted);
  EXPECT_EQ(architecture_yaml(read), kStudent);
  const std::vector<Replacement> replacements = replacements_of(read, small_config());
  ASSERT_EQ(replacements.size(), 5u);
  EXPECT_EQ(replacements[0].name(), "attention-gqa_1");
  EXPECT_EQ(replacements[1].name(), "ffn-ffn_48");
  EXPECT_EQ(replacements[2].name(), "block-no_op-ffn_24");
  EXPECT_EQ(replacements[4].layers(), "2");
  EXPECT_EQ(blocks_of(read, small_config())[2].attention.name(), "window_16");
  EXPECT_TRUE(read.scenarios.empty());

  a.scenarios = {"chat@8", "7"};
  a.servable = {"vllm", "llama.cpp"};
  EXPECT_EQ(parse_architecture(architecture_yaml(a), "a.yaml").scenarios, a.scenarios);
  EXPECT_EQ(parse_architecture(architecture_yaml(a), "a.yaml").servable, a.servable);
}

TEST(ArchitectureFile, ABlockMayStandForSeveralLayers) {
  std::string text = kStudent;
  text.replace(text.find("  - {attention: no_op"), std::string::npos,
               "  - {attention: gqa_2, ffn: ffn_24, trained: together, layers: 2}\n");
  const ChosenArchitecture a = parse_architecture(text, "a.yaml");
  EXPECT_EQ(replacements_of(a, small_config()).at(2).layers(), "1-2");
  EXPECT_EQ(architecture_yaml(a), text);
  EXPECT_EQ(blocks_of(a, small_config()).size(), 2u);
  EXPECT_EQ(last_layers(a), (std::vector<int64_t>{0, 2}));

  const auto refused = [&](std::string_view from, std::string_view to) {
    std::string wrong = text;
    wrong.replace(wrong.find(from), from.size(), to);
    return message_of([&] { replacements_of(parse_architecture(wrong, "a.yaml"), small_config()); });
  };
  EXPECT_EQ(refused("layers: 2", "layers: 0"),
            "a.yaml:11:64: layers: found '0'; must be a whole number from 1 to 1024");
  EXPECT_EQ(refused("layers: 2", "layers: 1.5"),
            "a.yaml:11:64: layers: found '1.5'; must be a whole number from 1 to 1024");
  EXPECT_EQ(refused("layers: 2", "layers: 3"), "architecture student: 2 blocks for 4 layers; the teacher has 3");
  EXPECT_EQ(refused("together", "apart"),
            "a.yaml:11:5: trained: found 'apart'; must be together for a block of 2 layers");
}

TEST(ArchitectureFile, WhatIsWrongIsRefusedWithItsPlace) {
  const auto refused = [](std::string_view from, std::string_view to) {
    std::string text = kStudent;
    text.replace(text.find(from), from.size(), to);
    return message_of([&] { replacements_of(parse_architecture(text, "a.yaml"), small_config()); });
  };
  EXPECT_THAT(refused("name: student\n", ""), HasSubstr("a.yaml:1:1: no key 'name'"));
  EXPECT_THAT(refused("mip", "[mip]"), HasSubstr("a.yaml:3:9: method: found a list; must be a text"));
  EXPECT_THAT(refused("true", "yes"), HasSubstr("a.yaml:5:9: proven: found 'yes'; must be true or false"));
  EXPECT_THAT(refused("0.1", "little"), HasSubstr("predicted.kl_divergence: found 'little'; must be a number"));
  EXPECT_THAT(refused("\n  kl_divergence: 0.1\n  memory: 123456789", " none"),
              HasSubstr("a.yaml:6:12: predicted: found 'none'; must be a map"));
  EXPECT_THAT(refused("  - {attention: gqa_1, ffn: ffn_48, trained: apart}\n", ""),
              HasSubstr("architecture student: 2 blocks for 2 layers; the teacher has 3"));
  EXPECT_THAT(refused("gqa_1", "gqa_3"), HasSubstr("a.yaml:10:5: gqa_3"));
  EXPECT_THAT(refused("trained: apart", "trained: maybe"),
              HasSubstr("a.yaml:10:5: trained: found 'maybe'; must be together or apart"));
  EXPECT_THAT(refused(", trained: apart", ""), HasSubstr("a.yaml:10:5: no key 'trained'"));
}

}  // namespace
}  // namespace tangram
