#include "nas/config_reader.h"

#include <algorithm>
#include <cmath>

namespace tangram {
namespace {

Error refused(const YamlNode& node, const std::string& path, const std::string& allowed) {
  return bad_input("{}: {}: found {}; allowed: {}", node.where, path, describe_found(node), allowed);
}

const std::string& scalar_of(const YamlNode& node, const std::string& path, const std::string& allowed) {
  if (node.kind != YamlNode::Kind::scalar) throw refused(node, path, allowed);
  return node.scalar;
}

}  // namespace

std::string Range::text() const {
  const bool has_low = std::isfinite(low), has_high = std::isfinite(high);
  if (has_low && has_high && !above_low) return fmt::format(" from {} to {}", format_exact(low), format_exact(high));
  std::string text;
  if (has_low) text = fmt::format(" {} {}", above_low ? "above" : "of at least", format_exact(low));
  if (has_high) text += fmt::format("{} {} {}", has_low ? " and" : "", "at most", format_exact(high));
  return text;
}

ConfigReader::ConfigReader(const YamlNode& map, std::string path, std::filesystem::path folder)
    : map_(map), path_(std::move(path)), folder_(std::move(folder)) {
  check_map(map_, path_);
}

void ConfigReader::flag(std::string_view key, bool& value) {
  constexpr std::string_view kNames[] = {"false", "true"};
  choice(key, value, kNames);
}

static int64_t read_count(const YamlNode& node, const std::string& path, Range range) {
  const std::string allowed = fmt::format("an integer{}, such as 1024 or 1e9", range.text());
  const std::optional<int64_t> count = parse_count(scalar_of(node, path, allowed));
  if (!count || !range.contains(static_cast<double>(*count))) throw refused(node, path, allowed);
  return *count;
}

void ConfigReader::count(std::string_view key, int64_t& value, Range range) {
  if (const YamlNode* node = find(key)) value = read_count(*node, join(key), range);
}

void ConfigReader::count(std::string_view key, uint64_t& value, Range range) {
  if (const YamlNode* node = find(key)) value = static_cast<uint64_t>(read_count(*node, join(key), range));
}

void ConfigReader::counts(std::string_view key, std::vector<int64_t>& value, Range range) {
  const YamlNode* list = find_list(key);
  if (!list) return;
  value.clear();
  for (const YamlNode& item : list->items) value.push_back(read_count(item, join(key), range));
}

void ConfigReader::one_or_more(std::string_view key, std::vector<int64_t>& value, Range range) {
  const YamlNode* node = find(key);
  if (!node) return;
  if (node->kind == YamlNode::Kind::list && !node->items.empty()) return counts(key, value, range);
  value = {read_count(*node, join(key), range)};
}

void ConfigReader::number(std::string_view key, double& value, Range range) {
  quantity(key, value, parse_number, range, "a number", "0.5 or 1e-4");
}

void ConfigReader::fraction(std::string_view key, double& value, Range range) {
  quantity(key, value, parse_fraction, range, "a fraction", "0.2 or 20%");
}

void ConfigReader::seconds(std::string_view key, double& value, Range range) {
  quantity(key, value, parse_seconds, range, "seconds or a duration", "90, 30 s or 5 min");
}

void ConfigReader::bytes(std::string_view key, double& value, Range range) {
  quantity(key, value, parse_bytes, range, "bytes", "85.5e9, 80 GB or 16 GiB");
}

void ConfigReader::text(std::string_view key, std::string& value) {
  if (const YamlNode* node = find(key)) value = scalar_of(*node, join(key), "a text");
}

void ConfigReader::texts(std::string_view key, std::vector<std::string>& value) {
  const YamlNode* list = find_list(key);
  if (!list) return;
  value.clear();
  for (const YamlNode& item : list->items) {
    const std::string& text = scalar_of(item, join(key), "a text");
    if (std::find(value.begin(), value.end(), text) != value.end())
      throw bad_input("{}: {}: '{}' is there twice", item.where, join(key), text);
    value.push_back(text);
  }
}

void ConfigReader::name(std::string_view key, std::string& value) {
  const YamlNode* node = find(key);
  if (!node) return;
  value = scalar_of(*node, join(key), "a name");
  check_name(value, node->where, join(key));
}

void ConfigReader::path(std::string_view key, std::filesystem::path& value) {
  if (const YamlNode* node = find(key)) value = resolve(*node, join(key));
}

void ConfigReader::paths(std::string_view key, std::vector<std::filesystem::path>& value) {
  const YamlNode* list = find_list(key);
  if (!list) return;
  value.clear();
  for (const YamlNode& item : list->items) value.push_back(resolve(item, join(key)));
}

static Limit read_limit(const YamlNode& node, const std::string& path,
                        std::optional<double> (*absolute)(std::string_view), std::string_view example) {
  const std::string allowed = fmt::format("{}, or a part of the teacher's, such as 60% or 2.0x", example);
  const std::optional<Limit> limit = parse_limit(scalar_of(node, path, allowed), absolute);
  if (!limit || limit->value <= 0) throw refused(node, path, allowed);
  return *limit;
}

void ConfigReader::limits(std::string_view key, std::map<std::string, Limit>& value,
                          std::optional<double> (*absolute)(std::string_view), std::string_view example) {
  const YamlNode* node = find(key);
  if (!node) return;
  value.clear();
  if (node->kind == YamlNode::Kind::scalar) {
    value[""] = read_limit(*node, join(key), absolute, example);
    return;
  }
  check_map(*node, join(key));
  for (const YamlEntry& entry : node->entries) {
    if (entry.key.empty()) throw bad_input("{}: {}: a limit without its scenario's name", entry.where, join(key));
    value[entry.key] = read_limit(entry.value, join(key) + "." + entry.key, absolute, example);
  }
}

void ConfigReader::name_or_path(std::string_view key, std::string& name, std::filesystem::path& path,
                                const std::vector<std::string>& known) {
  const YamlNode* node = find(key);
  if (!node) return;
  const std::string& text = scalar_of(*node, join(key), "a name or a path");
  if (text.find('/') != std::string::npos || text.ends_with(".yaml") || text.ends_with(".yml")) {
    path = resolve(*node, join(key));
    return;
  }
  if (std::find(known.begin(), known.end(), text) == known.end())
    throw bad_input("{}: {}: {}; or the path of a .yaml file", node->where, join(key),
                    unknown_name("value", text, known).what());
  name = text, path.clear();
}

void ConfigReader::finish() const {
  for (const YamlEntry& entry : map_.entries)
    if (std::find(known_.begin(), known_.end(), entry.key) == known_.end())
      throw bad_input("{}: {}{}", entry.where, path_.empty() ? "" : path_ + ": ",
                      unknown_name("key", entry.key, known_).what());
  for (const std::string& key : required_)
    if (!map_.find(key)) throw bad_input("{}: {} is missing", map_.where, join(key));
}

size_t ConfigReader::index_of(const YamlNode& node, const std::string& path, std::span<const std::string_view> names) {
  const std::vector<std::string> known(names.begin(), names.end());
  const std::string word = node.kind == YamlNode::Kind::scalar ? node.scalar : describe_found(node);
  const auto found = std::find(known.begin(), known.end(), word);
  if (found == known.end()) throw bad_input("{}: {}: {}", node.where, path, unknown_name("value", word, known).what());
  return static_cast<size_t>(found - known.begin());
}

void ConfigReader::check_map(const YamlNode& node, const std::string& path) {
  if (node.kind != YamlNode::Kind::map)
    throw bad_input("{}: {}found {}; allowed: a map, such as key: value", node.where, path.empty() ? "" : path + ": ",
                    describe_found(node));
}

void ConfigReader::check_name(const std::string& name, const std::string& where, const std::string& path) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
  constexpr size_t kLongest = 64;
  if (name.empty() || name.size() > kLongest || name[0] == '.' || name[0] == '-' ||
      name.find_first_not_of(kAllowed) != std::string::npos)
    throw bad_input(
        "{}: {}: found '{}'; allowed: a name of at most {} letters, digits, '_', '-' and '.', since files "
        "are called after it",
        where, path, name, kLongest);
}

const YamlNode* ConfigReader::find(std::string_view key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
  const YamlEntry* entry = map_.find(key);
  return entry ? &entry->value : nullptr;
}

const YamlNode* ConfigReader::find_list(std::string_view key) {
  const YamlNode* node = find(key);
  if (node && node->kind != YamlNode::Kind::list) throw refused(*node, join(key), "a list, such as [a, b]");
  return node;
}

void ConfigReader::quantity(std::string_view key, double& value, std::optional<double> (*parse)(std::string_view),
                            Range range, std::string_view kind, std::string_view examples) {
  const YamlNode* node = find(key);
  if (!node) return;
  const std::string allowed = fmt::format("{}{}, such as {}", kind, range.text(), examples);
  const std::optional<double> read = parse(scalar_of(*node, join(key), allowed));
  if (!read || !range.contains(*read)) throw refused(*node, join(key), allowed);
  value = *read;
}

std::filesystem::path ConfigReader::resolve(const YamlNode& node, const std::string& path) const {
  const std::filesystem::path read = scalar_of(node, path, "a path");
  if (read.empty()) throw refused(node, path, "a path");
  const std::filesystem::path whole = absolute(node.from_command_line ? read : folder_ / read).lexically_normal();
  return whole.has_filename() ? whole : whole.parent_path();  // without a slash at the end
}

}  // namespace tangram
