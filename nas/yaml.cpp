#include "nas/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "blocks/file.h"

namespace tangram {
namespace {

/// Builds a YamlNode from the parser's events and refuses what the subset leaves out.
class Builder : public YAML::EventHandler {
 public:
  Builder(YamlNode& root, const std::string& name, bool from_command_line)
      : root_(root), name_(name), from_command_line_(from_command_line) {}

  /// The command line has no lines: its text is its own place.
  std::string place(const YAML::Mark& mark) const {
    return from_command_line_ ? name_ : fmt::format("{}:{}:{}", name_, mark.line + 1, mark.column + 1);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0) throw bad_input("{}: a second document; one is allowed", place(mark));
  }
  void OnDocumentEnd() override {}
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    throw bad_input("{}: anchor '&{}'; anchors and aliases are not allowed, repeat the value", place(mark), name);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw bad_input("{}: an alias; anchors and aliases are not allowed, repeat the value", place(mark));
  }
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (expects_key()) throw bad_input("{}: a key is empty", place(mark));
    add(mark, "", YamlNode::Kind::null);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    if (!expects_key()) {
      add(mark, tag, YamlNode::Kind::scalar).scalar = value;
      return;
    }
    if (const YamlEntry* earlier = open_.back()->find(value))
      throw bad_input("{}: key '{}' again; it stands at {} already", place(mark), value, earlier->where);
    open_.back()->entries.push_back({value, place(mark), {}});
    key_is_open_ = true;
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::list);
  }
  void OnSequenceEnd() override { open_.pop_back(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::map);
  }
  void OnMapEnd() override { open_.pop_back(); }

 private:
  bool expects_key() const { return !open_.empty() && open_.back()->kind == YamlNode::Kind::map && !key_is_open_; }

  YamlNode& add(const YAML::Mark& mark, const std::string& tag, YamlNode::Kind kind) {
    // "?" and "!" are the parser's own marks of plain and quoted scalars.
    if (!tag.empty() && tag != "?" && tag != "!")
      throw bad_input("{}: tag '{}'; tags are not allowed", place(mark), tag);
    YamlNode* node = &root_;
    if (!open_.empty() && open_.back()->kind == YamlNode::Kind::map) node = &open_.back()->entries.back().value;
    if (!open_.empty() && open_.back()->kind == YamlNode::Kind::list) node = &open_.back()->items.emplace_back();
    key_is_open_ = false;
    node->kind = kind;
    node->where = place(mark);
    node->from_command_line = from_command_line_;
    return *node;
  }

  void open(const YAML::Mark& mark, const std::string& tag, YamlNode::Kind kind) {
    if (expects_key()) throw bad_input("{}: a key is a list or a map; keys are words", place(mark));
    if (open_.size() >= kMaxYamlDepth) throw bad_input("{}: nested more than {} deep", place(mark), kMaxYamlDepth);
    open_.push_back(&add(mark, tag, kind));
  }

  YamlNode& root_;
  const std::string& name_;
  bool from_command_line_;
  int documents_ = 0;
  std::vector<YamlNode*> open_;  // a node's siblings come only after it is closed, so the pointers stay valid
  bool key_is_open_ = false;     // the innermost map has a key whose value has not come yet
};

YamlNode parse(std::string_view text, const std::string& name, bool from_command_line) {
  YamlNode root;
  root.where = name;
  root.from_command_line = from_command_line;
  Builder builder(root, name, from_command_line);
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& e) {
    throw bad_input("{}: {}", builder.place(e.mark), e.msg);
  }
  return root;
}

}  // namespace

const YamlEntry* YamlNode::find(std::string_view key) const {
  const auto found = std::find_if(entries.begin(), entries.end(), [&](const YamlEntry& e) { return e.key == key; });
  return found == entries.end() ? nullptr : &*found;
}

YamlNode parse_yaml(std::string_view text, const std::string& name) { return parse(text, name, false); }

YamlNode read_yaml(const std::filesystem::path& path) {
  return parse_yaml(read_text_file(path, kMaxYamlBytes), path.string());
}

void set_yaml(YamlNode& root, std::string_view assignment) {
  const std::string where = fmt::format("--set {}", assignment);
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos || equals == 0)
    throw bad_input("{}: expected key=value, such as --set distill.tokens=1e6", where);

  YamlNode* node = &root;
  std::string_view path = assignment.substr(0, equals);
  while (!path.empty()) {
    const std::string key(path.substr(0, path.find('.')));
    const size_t taken = key.size();
    path.remove_prefix(std::min(path.size(), taken + 1));
    if (node->kind == YamlNode::Kind::null) node->kind = YamlNode::Kind::map, node->where = where;
    if (node->kind != YamlNode::Kind::map)
      throw bad_input("{}: '{}' would stand in {} ({}), which has no keys", where, key, describe_found(*node),
                      node->where);
    YamlEntry* entry = const_cast<YamlEntry*>(node->find(key));
    if (!entry) entry = &node->entries.emplace_back(YamlEntry{key, where, {}});
    entry->where = where;
    node = &entry->value;
  }
  *node = parse(assignment.substr(equals + 1), where, true);
}

std::string describe_found(const YamlNode& node) {
  constexpr size_t kMostShown = 60;
  switch (node.kind) {
    case YamlNode::Kind::null:
      return "nothing";
    case YamlNode::Kind::list:
      return "a list";
    case YamlNode::Kind::map:
      return "a map";
    case YamlNode::Kind::scalar:
      break;
  }
  if (node.scalar.size() <= kMostShown) return fmt::format("'{}'", node.scalar);
  return fmt::format("'{}…'", node.scalar.substr(0, kMostShown));
}

std::string yaml_scalar(std::string_view text) {
  constexpr std::string_view kSafe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./%+ ";
  const bool safe_ends = !text.empty() && text.front() != ' ' && text.front() != '%' && text.back() != ' ';
  if (safe_ends && text.find_first_not_of(std::string(kSafe) + "-") == std::string_view::npos && text.front() != '-' &&
      text != "null" && text != "Null" && text != "NULL")
    return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20)
      quoted += fmt::format("\\x{:02x}", c);
    else
      quoted += c;
  }
  return quoted + '"';
}

}  // namespace tangram
