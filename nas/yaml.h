#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/error.h"

namespace tangram {

struct YamlEntry;

/// One value of a YAML document. Anchors, aliases, tags and repeated keys are refused when the document is parsed, so
/// what stands in the text is all there is.
struct YamlNode {
  enum class Kind : uint8_t { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string where;               ///< for messages: `quickstart.yaml:12:3`, or `--set distill.tokens=5`
  bool from_command_line = false;  ///< relative paths then mean the working directory
  std::string scalar;
  std::vector<YamlNode> items;     ///< of a list
  std::vector<YamlEntry> entries;  ///< of a map, in the order of the text

  const YamlEntry* find(std::string_view key) const;
};

struct YamlEntry {
  std::string key, where;
  YamlNode value;
};

constexpr int64_t kMaxYamlBytes = int64_t{1} << 17;
constexpr int kMaxYamlDepth = 32;

/// The one document of `text`; `name` stands for it in messages. Throws Error `name:line:column: what is wrong`.
YamlNode parse_yaml(std::string_view text, const std::string& name);

/// parse_yaml of a file of at most kMaxYamlBytes.
YamlNode read_yaml(const std::filesystem::path& path);

/// Applies `key.path=value` as the command line spells it after --set; the value is YAML. Maps on the way are made.
void set_yaml(YamlNode& root, std::string_view assignment);

/// `'abc'`, `a list`, `a map` or `nothing`: what a message says was found.
std::string describe_found(const YamlNode& node);

/// A scalar as YAML spells it: plain where that is safe, else in double quotes.
std::string yaml_scalar(std::string_view text);

}  // namespace tangram
