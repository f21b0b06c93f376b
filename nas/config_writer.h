#pragma once
#include <concepts>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nas/config_reader.h"

namespace tangram {

/// Writes a struct as the YAML that ConfigReader reads back to the same struct; every key is written, defaults too.
class ConfigWriter {
 public:
  /// How a path is spelled.
  using SpellPath = std::function<std::string(const std::filesystem::path&)>;

  explicit ConfigWriter(SpellPath spell_path) : spell_path_(std::move(spell_path)) {}
  std::string yaml;

  void flag(std::string_view key, bool value) { line(key, value ? "true" : "false"); }
  void count(std::string_view key, std::integral auto value, Range) { line(key, fmt::format("{}", value)); }
  void number(std::string_view key, double value, Range) { line(key, format_exact(value)); }
  void counts(std::string_view key, const std::vector<int64_t>& value, Range) {
    list(key, value, [](int64_t count) { return fmt::format("{}", count); });
  }
  void one_or_more(std::string_view key, const std::vector<int64_t>& value, Range range) {
    value.size() == 1 ? count(key, value[0], range) : counts(key, value, range);
  }
  void fraction(std::string_view key, double value, Range) { line(key, format_exact(value)); }
  void seconds(std::string_view key, double value, Range) { line(key, format_exact(value)); }
  void bytes(std::string_view key, double value, Range) { line(key, format_exact(value)); }
  void text(std::string_view key, const std::string& value) { line(key, yaml_scalar(value)); }
  void name(std::string_view key, const std::string& value) { line(key, yaml_scalar(value)); }
  void texts(std::string_view key, const std::vector<std::string>& value) {
    list(key, value, [](const std::string& text) { return yaml_scalar(text); });
  }
  void path(std::string_view key, const std::filesystem::path& value) {
    if (!value.empty()) line(key, yaml_scalar(spell_path_(value)));
  }
  void paths(std::string_view key, const std::vector<std::filesystem::path>& value) {
    list(key, value, [&](const std::filesystem::path& p) { return yaml_scalar(spell_path_(p)); });
  }
  void limits(std::string_view key, const std::map<std::string, Limit>& value, auto, std::string_view) {
    if (value.empty()) return;
    if (value.size() == 1 && value.begin()->first.empty()) return line(key, format_exact(value.begin()->second));
    open(key);
    for (const auto& [name, limit] : value) line(name, format_exact(limit));
    depth_ -= 1;
  }
  template <class E>
  void choice(std::string_view key, E value, std::span<const std::string_view> names) {
    line(key, names[static_cast<size_t>(value)]);
  }
  template <class E>
  void choice(std::string_view key, const std::optional<E>& value, std::span<const std::string_view> names) {
    if (value) choice(key, *value, names);
  }
  void name_or_path(std::string_view key, const std::string& name, const std::filesystem::path& value,
                    const std::vector<std::string>&) {
    value.empty() ? line(key, yaml_scalar(name)) : path(key, value);
  }
  template <class E>
  void choices(std::string_view key, const std::vector<E>& value, std::span<const std::string_view> names) {
    list(key, value, [&](E e) { return std::string(names[static_cast<size_t>(e)]); });
  }

  template <class T>
  void section(std::string_view key, T& value) {
    open(key);
    describe(*this, value);
    depth_ -= 1;
  }
  template <class T>
  void section(std::string_view key, std::optional<T>& value) {
    if (value) section(key, *value);
  }
  template <class T>
  void path_or_section(std::string_view key, const std::filesystem::path& folder, T& value) {
    folder.empty() ? section(key, value) : path(key, folder);
  }
  template <class T>
  void named_sections(std::string_view key, std::vector<T>& value) {
    if (value.empty()) return;
    open(key);
    for (T& item : value) section(item.name, item);
    depth_ -= 1;
  }
  template <class T>
  void sections(std::string_view key, std::vector<T>& value, std::string_view = {}) {
    if (value.empty()) return;
    open(key);
    for (T& item : value) {
      starts_item_ = true;
      depth_ += 1;
      describe(*this, item);
      depth_ -= 1;
    }
    depth_ -= 1;
  }
  void require(std::string_view) {}

 private:
  void line(std::string_view key, std::string_view value);
  void open(std::string_view key);
  template <class T>
  void list(std::string_view key, const std::vector<T>& value, auto spell) {
    std::string text = "[";
    for (const T& item : value) text += (text.size() > 1 ? ", " : "") + spell(item);
    line(key, text + "]");
  }

  SpellPath spell_path_;
  int depth_ = 0;
  bool starts_item_ = false;  // the next line begins with the dash of a list item
};

}  // namespace tangram
