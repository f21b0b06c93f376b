#include <gtest/gtest.h>

#include <fstream>

#include "nas/yaml.h"

namespace tangram {
namespace {

/// The message of the Error that parsing `text` as x.yaml throws.
std::string message_of(const std::string& text) {
  try {
    parse_yaml(text, "x.yaml");
  } catch (const Error& e) {
    EXPECT_EQ(e.failure, Failure::bad_input);
    return e.what();
  }
  return "no error";
}

TEST(Yaml, KeepsValuesOrderAndPlaces) {
  const YamlNode root = parse_yaml("a: 1\nb:\n  c: [x, \"y: z\", ~]\n  d:\n", "x.yaml");
  ASSERT_EQ(root.kind, YamlNode::Kind::map);
  EXPECT_EQ(root.entries[0].key, "a");
  EXPECT_EQ(root.entries[0].value.scalar, "1");
  EXPECT_EQ(root.entries[1].where, "x.yaml:2:1");
  const YamlNode& c = root.find("b")->value.find("c")->value;
  ASSERT_EQ(c.items.size(), 3u);
  EXPECT_EQ(c.items[1].scalar, "y: z");
  EXPECT_EQ(c.items[1].where, "x.yaml:3:10");
  EXPECT_EQ(c.items[2].kind, YamlNode::Kind::null);
  EXPECT_EQ(root.find("b")->value.find("d")->value.kind, YamlNode::Kind::null);
  EXPECT_EQ(root.find("z"), nullptr);
  EXPECT_EQ(parse_yaml("", "x.yaml").kind, YamlNode::Kind::null);
}

TEST(Yaml, RefusesWhatTheSubsetLeavesOut) {
  EXPECT_EQ(message_of("a: 1\nb: 2\na: 3\n"), "x.yaml:3:1: key 'a' again; it stands at x.yaml:1:1 already");
  EXPECT_EQ(message_of("a: &x 1\n"), "x.yaml:1:4: anchor '&x'; anchors and aliases are not allowed, repeat the value");
  EXPECT_EQ(message_of("a: !!python/object 1\n"),
            "x.yaml:1:4: tag 'tag:yaml.org,2002:python/object'; tags are not allowed");
  EXPECT_EQ(message_of("a: 1\n---\nb: 2\n"), "x.yaml:2:1: a second document; one is allowed");
  EXPECT_EQ(message_of("? [a]\n: 1\n"), "x.yaml:1:3: a key is a list or a map; keys are words");
  EXPECT_EQ(message_of("~: 1\n"), "x.yaml:1:1: a key is empty");
  EXPECT_EQ(message_of("a: [1, 2\n"), "x.yaml:2:1: end of sequence flow not found");
  const auto nested = [](size_t depth) { return "a: " + std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(message_of(nested(31)), "no error");
  EXPECT_EQ(message_of(nested(32)), "x.yaml:1:35: nested more than 32 deep");
  EXPECT_EQ(message_of(nested(60'000)), "x.yaml:1:35: nested more than 32 deep");
  EXPECT_EQ(message_of(std::string(100'000, '{')).substr(0, 9), "x.yaml:1:");
  EXPECT_EQ(message_of("a:\n\t- b\n").substr(0, 8), "x.yaml:2");
}

TEST(Yaml, RefusesAnAliasBombWithoutExpandingIt) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 30; ++i)
    bomb += fmt::format("a{0}: &a{0} [*a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}, *a{1}]\n", i, i - 1);
  EXPECT_EQ(message_of(bomb), "x.yaml:1:5: anchor '&a0'; anchors and aliases are not allowed, repeat the value");
  EXPECT_EQ(message_of("a: *b\n").substr(0, 11), "x.yaml:1:4:");
}

TEST(Yaml, ReadsOnlyFilesOfModestSize) {
  const std::filesystem::path folder = testing::TempDir();
  const auto message = [](const std::filesystem::path& path) -> std::string {
    try {
      read_yaml(path);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(message(folder), folder.string() + ": cannot be read: Is a directory");
  EXPECT_EQ(message(folder / "none.yaml"),
            (folder / "none.yaml").string() + ": cannot be read: No such file or directory");
  EXPECT_EQ(message("/dev/zero"), "/dev/zero: larger than the 131072 bytes that are allowed");
  const std::filesystem::path big = folder / "big.yaml";
  std::ofstream(big) << std::string(kMaxYamlBytes + 1, '#');
  EXPECT_EQ(message(big), big.string() + ": larger than the 131072 bytes that are allowed");
  std::ofstream(big) << std::string(kMaxYamlBytes, '#');
  EXPECT_EQ(message(big), "no error");
}

TEST(Yaml, OverridesReplaceAddAndAreNamedInMessages) {
  YamlNode root = parse_yaml("a: {b: 1}\nc: [1, 2]\n", "x.yaml");
  set_yaml(root, "a.b=7");
  set_yaml(root, "d.e.f=[x, y]");
  EXPECT_EQ(root.find("a")->value.find("b")->value.scalar, "7");
  EXPECT_EQ(root.find("a")->value.find("b")->value.where, "--set a.b=7");
  EXPECT_EQ(root.find("d")->value.find("e")->value.find("f")->value.items.size(), 2u);
  const auto message = [&](const char* assignment) -> std::string {
    try {
      set_yaml(root, assignment);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_EQ(message("a.b.c=1"), "--set a.b.c=1: 'c' would stand in '7' (--set a.b=7), which has no keys");
  EXPECT_EQ(message("c.x=1"), "--set c.x=1: 'x' would stand in a list (x.yaml:2:4), which has no keys");
  EXPECT_EQ(message("a"), "--set a: expected key=value, such as --set distill.tokens=1e6");
  EXPECT_EQ(message("a={b: [1}"), "--set a={b: [1}: illegal flow end");
}

TEST(Yaml, ScalarsReadBackAsTheyWere) {
  for (const std::string text : {"gqa_4", "60%", "", " x", "a: b", "null", "~", "- a", "-1", "\"q\"\\", "#c",
                                 "a\nb\t\x01", "Llama-3.1 70B/x", "été", "[a]", "%x", "true"}) {
    const YamlNode node = parse_yaml("k: " + yaml_scalar(text), "x.yaml").find("k")->value;
    EXPECT_EQ(node.kind, YamlNode::Kind::scalar) << text;
    EXPECT_EQ(node.scalar, text);
  }
}

}  // namespace
}  // namespace tangram
