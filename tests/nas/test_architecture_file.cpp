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
  const auto replace = [&](int64_t layer, const char* attention, const char* ffn) {
    Replacement r{.first_layer = layer, .layer_count = 1, .attention = {}, .ffn = {}};
    if (attention) r.attention = parse_choice(Subblock::attention, attention, small_config());
    if (ffn) r.ffn = parse_choice(Subblock::ffn, ffn, small_config());
    a.replacements.push_back(r);
  };
  replace(0, "gqa_1", nullptr), replace(0, nullptr, "ffn_48");
  replace(1, "no_op", "ffn_24");
  replace(2, "window_16", nullptr), replace(2, nullptr, "linear");
  EXPECT_EQ(architecture_yaml(a), kStudent);

  const TestFolder folder;
  write_architecture(folder.path / "architectures/student.yaml", a);
  const ChosenArchitecture read = read_architecture(folder.path / "architectures/student.yaml", small_config());
  EXPECT_EQ(read.name, a.name);
  EXPECT_EQ(read.target, a.target);
  EXPECT_EQ(read.method, a.method);
  EXPECT_EQ(read.objective, a.objective);
  EXPECT_EQ(read.proven, a.proven);
  EXPECT_EQ(read.predicted, a.predicted);
  EXPECT_EQ(read.replacements, a.replacements);
}

TEST(ArchitectureFile, ABlockMayStandForSeveralLayers) {
  std::string text = kStudent;
  text.replace(text.find("  - {attention: no_op"), std::string::npos,
               "  - {attention: gqa_2, ffn: ffn_24, trained: together, layers: 2}\n");
  const ChosenArchitecture a = parse_architecture(text, "a.yaml", small_config());
  ASSERT_EQ(a.replacements.size(), 3u);
  EXPECT_EQ(a.replacements[2].layers(), "1-2");
  EXPECT_EQ(architecture_yaml(a), text);
  EXPECT_EQ(blocks_of(a).size(), 2u);
  EXPECT_EQ(last_layers(a), (std::vector<int64_t>{0, 2}));

  const auto refused = [&](std::string_view from, std::string_view to) {
    std::string wrong = text;
    wrong.replace(wrong.find(from), from.size(), to);
    return message_of([&] { parse_architecture(wrong, "a.yaml", small_config()); });
  };
  EXPECT_EQ(refused("layers: 2", "layers: 4"), "a.yaml:11:64: layers: found '4'; must be a whole number from 1 to 3");
  EXPECT_EQ(refused("layers: 2", "layers: 1.5"),
            "a.yaml:11:64: layers: found '1.5'; must be a whole number from 1 to 3");
  EXPECT_EQ(refused("layers: 2", "layers: 3"), "a.yaml:10:3: 2 blocks for 4 layers; the teacher has 3");
  EXPECT_EQ(refused("together", "apart"),
            "a.yaml:11:5: trained: found 'apart'; must be together for a block of 2 layers");
}

TEST(ArchitectureFile, WhatIsWrongIsRefusedWithItsPlace) {
  const auto refused = [](std::string_view from, std::string_view to) {
    std::string text = kStudent;
    text.replace(text.find(from), from.size(), to);
    return message_of([&] { parse_architecture(text, "a.yaml", small_config()); });
  };
  EXPECT_THAT(refused("name: student\n", ""), HasSubstr("a.yaml:1:1: no key 'name'"));
  EXPECT_THAT(refused("mip", "[mip]"), HasSubstr("a.yaml:3:9: method: found a list; must be a text"));
  EXPECT_THAT(refused("true", "yes"), HasSubstr("a.yaml:5:9: proven: found 'yes'; must be true or false"));
  EXPECT_THAT(refused("0.1", "little"), HasSubstr("predicted.kl_divergence: found 'little'; must be a number"));
  EXPECT_THAT(refused("\n  kl_divergence: 0.1\n  memory: 123456789", " none"),
              HasSubstr("a.yaml:6:12: predicted: found 'none'; must be a map"));
  EXPECT_THAT(refused("  - {attention: gqa_1, ffn: ffn_48, trained: apart}\n", ""),
              HasSubstr("2 blocks for 2 layers; the teacher has 3"));
  EXPECT_THAT(refused("gqa_1", "gqa_3"), HasSubstr("a.yaml:10:17: "));
  EXPECT_THAT(refused("trained: apart", "trained: maybe"),
              HasSubstr("a.yaml:10:5: trained: found 'maybe'; must be together or apart"));
  EXPECT_THAT(refused(", trained: apart", ""), HasSubstr("a.yaml:10:5: no key 'trained'"));
}

}  // namespace
}  // namespace tangram
