#pragma once
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nas/units.h"
#include "nas/yaml.h"

namespace tangram {

/// Numbers that a key takes.
struct Range {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool above_low = false;  ///< low itself is not allowed

  bool contains(double x) const { return (above_low ? x > low : x >= low) && x <= high; }
  std::string text() const;  ///< ` of at least 1`, ` above 0 and at most 1`
};
constexpr Range at_least(double low) { return {.low = low}; }
constexpr Range above(double low) { return {.low = low, .above_low = true}; }
constexpr Range within(double low, double high) { return {.low = low, .high = high}; }

/// Reads one map of a config into a struct. Together with ConfigWriter, which has the same functions, it lets one
/// `describe(visitor, struct)` name the keys once for reading and writing. A key that is not in the map leaves its
/// member as it is: the member's initialiser is the default. Every function throws Error naming place, key, what was
/// found and what is allowed.
class ConfigReader {
 public:
  /// `path` is the key of the map itself, such as `distill`; relative paths are relative to `folder`.
  ConfigReader(const YamlNode& map, std::string path, std::filesystem::path folder);

  void flag(std::string_view key, bool& value);
  void count(std::string_view key, int64_t& value, Range range);
  void count(std::string_view key, uint64_t& value, Range range);  ///< range.low is not negative
  void counts(std::string_view key, std::vector<int64_t>& value, Range range);
  void one_or_more(std::string_view key, std::vector<int64_t>& value, Range range);  ///< `8`, or `[8, 16]`
  void number(std::string_view key, double& value, Range range);
  void fraction(std::string_view key, double& value, Range range);  ///< `20%` or `0.2`
  void seconds(std::string_view key, double& value, Range range);   ///< `30 s`, `5 min`
  void bytes(std::string_view key, double& value, Range range);     ///< `85.5e9`, `80 GB`
  void text(std::string_view key, std::string& value);
  void texts(std::string_view key, std::vector<std::string>& value);  ///< no two of them alike
  void name(std::string_view key, std::string& value);                ///< usable as a file's name
  void path(std::string_view key, std::filesystem::path& value);
  void paths(std::string_view key, std::vector<std::filesystem::path>& value);
  /// One limit for each of the names that are the map's keys; or one alone, of the empty name.
  void limits(std::string_view key, std::map<std::string, Limit>& value,
              std::optional<double> (*absolute)(std::string_view), std::string_view example);

  /// One of `known`; or the path of a file: what has a slash, or ends in .yaml.
  void name_or_path(std::string_view key, std::string& name, std::filesystem::path& path,
                    const std::vector<std::string>& known);

  /// One of `names`, whose order is the enum's.
  template <class E>
  void choice(std::string_view key, E& value, std::span<const std::string_view> names) {
    if (const YamlNode* node = find(key)) value = static_cast<E>(index_of(*node, join(key), names));
  }
  template <class E>
  void choice(std::string_view key, std::optional<E>& value, std::span<const std::string_view> names) {
    if (find(key)) choice(key, value.emplace(), names);
  }
  template <class E>
  void choices(std::string_view key, std::vector<E>& value, std::span<const std::string_view> names) {
    const YamlNode* list = find_list(key);
    if (!list) return;
    value.clear();
    for (const YamlNode& item : list->items) value.push_back(static_cast<E>(index_of(item, join(key), names)));
  }

  template <class T>
  void section(std::string_view key, T& value) {
    if (const YamlNode* node = find(key)) read(*node, join(key), value);
  }
  template <class T>
  void section(std::string_view key, std::optional<T>& value) {
    if (const YamlNode* node = find(key)) read(*node, join(key), value.emplace());
  }
  /// A path as a scalar, or a section.
  template <class T>
  void path_or_section(std::string_view key, std::filesystem::path& folder, T& value) {
    const YamlNode* node = find(key);
    if (node && node->kind == YamlNode::Kind::scalar) return path(key, folder);
    if (node) read(*node, join(key), value);
  }
  /// A map from names to sections; the name becomes the member `name`.
  template <class T>
  void named_sections(std::string_view key, std::vector<T>& value) {
    const YamlNode* node = find(key);
    if (!node) return;
    check_map(*node, join(key));
    value.clear();
    for (const YamlEntry& entry : node->entries) {
      check_name(entry.key, entry.where, join(key));
      value.emplace_back().name = entry.key;
      read(entry.value, join(key) + "." + entry.key, value.back());
    }
  }
  /// A list of sections. A lone section is a list of one. An item that is a scalar stands for a section with nothing
  /// but `scalar_key`, if there is one.
  template <class T>
  void sections(std::string_view key, std::vector<T>& value, std::string_view scalar_key = {}) {
    const YamlNode* node = find(key);
    if (!node) return;
    value.clear();
    if (node->kind == YamlNode::Kind::map) return read(*node, join(key), value.emplace_back());
    for (const YamlNode& item : find_list(key)->items) {
      YamlNode section = item;
      if (item.kind == YamlNode::Kind::scalar && !scalar_key.empty()) {
        section.kind = YamlNode::Kind::map;
        section.entries = {{.key = std::string(scalar_key), .where = item.where, .value = item}};
      }
      read(section, join(key), value.emplace_back());
    }
  }

  /// A key without which the section means nothing.
  void require(std::string_view key) { required_.emplace_back(key); }

  /// Refuses keys that nobody asked for, then the absence of required ones.
  void finish() const;

 private:
  static size_t index_of(const YamlNode& node, const std::string& path, std::span<const std::string_view> names);
  static void check_map(const YamlNode& node, const std::string& path);
  static void check_name(const std::string& name, const std::string& where, const std::string& path);
  std::string join(std::string_view key) const {
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  }
  const YamlNode* find(std::string_view key);
  const YamlNode* find_list(std::string_view key);
  void quantity(std::string_view key, double& value, std::optional<double> (*parse)(std::string_view), Range range,
                std::string_view kind, std::string_view examples);
  std::filesystem::path resolve(const YamlNode& node, const std::string& path) const;

  template <class T>
  void read(const YamlNode& node, const std::string& path, T& value) const {
    ConfigReader reader(node, path, folder_);
    describe(reader, value);
    reader.finish();
  }

  const YamlNode& map_;
  std::string path_;
  std::filesystem::path folder_;
  std::vector<std::string> known_, required_;
};

}  // namespace tangram
