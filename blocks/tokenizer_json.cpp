#include <algorithm>
#include <cctype>
#include <initializer_list>

#include "blocks/file.h"
#include "blocks/json.h"
#include "blocks/tokenizer.h"
#include "blocks/unicode.h"
#include "kernels/error.h"

namespace tangram {
namespace {

using json = nlohmann::json;

constexpr int64_t kMaxFile = 64 << 20;  // the largest in use, of 262,144 tokens, has 33 MB
constexpr int kMaxDepth = 32;
constexpr int64_t kMaxVocab = 1 << 20;
constexpr size_t kMaxAddedToken = 1024;               // bytes
constexpr size_t kMaxSteps = 16;                      // of a normalizer, pre_tokenizer, post_processor or decoder
constexpr size_t kMaxReplacement = 64;                // bytes; with the steps it bounds how much a text can grow
constexpr size_t kMaxTokenBytes = size_t(256) << 20;  // of all tokens together

// A value of the file and where it stands, for messages. A key that is absent is null.
struct Node {
  const json& value;
  std::string path;

  [[noreturn]] void refuse(const std::string& what) const { throw bad_input("{}: {}", path, what); }

  bool null() const { return value.is_null(); }

  void expect(bool holds, std::string_view what) const {
    if (!holds) refuse(fmt::format("{} where {} is expected", value.type_name(), what));
  }

  Node operator[](const std::string& key) const {
    static const json kAbsent;
    expect(value.is_object(), "an object");
    const auto found = value.find(key);
    return {found == value.end() ? kAbsent : *found, path + (path.ends_with(':') ? " " : ".") + key};
  }

  std::vector<Node> items() const {
    expect(value.is_array(), "an array");
    std::vector<Node> nodes;
    for (size_t i = 0; i < value.size(); ++i) nodes.push_back({value[i], fmt::format("{}[{}]", path, i)});
    return nodes;
  }

  std::string text() const {
    expect(value.is_string(), "a string");
    return value.get<std::string>();
  }

  bool flag(bool absent) const {
    if (null()) return absent;
    expect(value.is_boolean(), "true or false");
    return value.get<bool>();
  }

  int64_t integer(int64_t most) const {
    expect(value.is_number(), "a number");
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t(most))
      refuse(fmt::format("{} where a whole number from 0 to {} is expected", value.dump(), most));
    return value.get<int64_t>();
  }

  void allow_keys(std::initializer_list<std::string_view> known) const {
    expect(value.is_object(), "an object");
    for (const auto& [key, ignored] : value.items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        refuse(fmt::format("the key '{:.60}' is not supported; supported: {}", key, fmt::join(known, ", ")));
  }

  [[noreturn]] void refuse_type(std::string_view supported) const {
    refuse(fmt::format("the type '{:.60}' is not supported; supported: {}", (*this)["type"].text(), supported));
  }
};

// The steps of a Sequence, in Sequences too; a step by itself is a sequence of one, null of none.
void flatten(std::vector<Node>& steps, const Node& node, const char* list) {
  if (node.null()) return;
  if (node["type"].text() != "Sequence") return steps.push_back(node);
  node.allow_keys({"type", list});
  for (const Node& step : node[list].items()) flatten(steps, step, list);
}

std::vector<Node> flatten(const Node& node, const char* list) {
  std::vector<Node> steps;
  flatten(steps, node, list);
  if (steps.size() > kMaxSteps) node.refuse(fmt::format("{} steps; at most {}", steps.size(), kMaxSteps));
  return steps;
}

// GPT-2's spelling of bytes: those that print, as themselves; the others, in order, as U+0100 and up.
std::array<std::string, 256> byte_spellings() {
  std::array<std::string, 256> spelling;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const int code_point = prints ? byte : next++;
    if (code_point >= 0x80) spelling[byte] += char(0xC0 | code_point >> 6);
    spelling[byte] += char(code_point < 0x80 ? code_point : 0x80 | (code_point & 0x3F));
  }
  return spelling;
}

// The bytes that a byte-level token spells; nothing if it has a character that spells none.
std::optional<std::string> spelled_bytes(std::string_view text, const StringMap<char>& byte_of) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const std::string_view character = text.substr(i, utf8_step(text.substr(i)).bytes);
    const auto found = byte_of.find(character);
    if (found == byte_of.end()) return {};
    bytes += found->second;
    i += character.size();
  }
  return bytes;
}

// The byte of <0x00> to <0xFF>; -1 if `text` is not of that form.
int fallback_byte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  if (!std::isxdigit(uint8_t(text[3])) || !std::isxdigit(uint8_t(text[4]))) return -1;
  return std::stoi(std::string(text.substr(3, 2)), nullptr, 16);
}

// Gives `text` the id, unless another text has it.
void name_token(Tokenizer& t, int64_t id, const std::string& text, const std::string& path) {
  if (text.empty()) throw bad_input("{}: the token of id {} is empty", path, id);
  if (id >= int64_t(t.tokens.size())) t.tokens.resize(id + 1);
  std::string& known = t.tokens[id].text;
  if (!known.empty() && known != text)
    throw bad_input("{}: the id {} is that of '{:.60}' and of '{:.60}'", path, id, known, text);
  known = t.tokens[id].bytes = text;
}

void read_vocab(Tokenizer& t, const Node& node) {
  node.expect(node.value.is_object(), "an object of tokens and ids");
  t.vocab.reserve(node.value.size());
  for (const auto& [text, id] : node.value.items()) {
    const int64_t number = Node{id, node.path + "." + text}.integer(kMaxVocab - 1);
    name_token(t, number, text, node.path);
    t.vocab.emplace(text, int32_t(number));
  }
}

void read_merges(Tokenizer& t, const Node& node) {
  node.expect(node.value.is_array(), "an array");
  const auto refuse = [&](size_t i, const std::string& what) { throw bad_input("{}[{}]: {}", node.path, i, what); };
  t.merges.reserve(node.value.size());
  for (size_t i = 0; i < node.value.size(); ++i) {
    const json& merge = node.value[i];
    std::string left, right;
    if (merge.is_string()) {
      const std::string pair = merge.get<std::string>();
      const size_t space = pair.find(' ');
      if (space == pair.npos || pair.find(' ', space + 1) != pair.npos) refuse(i, "must be two tokens and one space");
      left = pair.substr(0, space), right = pair.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>(), right = merge[1].get<std::string>();
    } else {
      refuse(i, "must be \"a b\" or [\"a\", \"b\"]");
    }
    const auto a = t.vocab.find(left), b = t.vocab.find(right), both = t.vocab.find(left + right);
    if (a == t.vocab.end() || b == t.vocab.end() || both == t.vocab.end())
      refuse(i, fmt::format("'{:.60}', '{:.60}' or both together are not in the vocabulary", left, right));
    t.merges.insert_or_assign(a->second, b->second, {int32_t(i), both->second});
  }
}

void read_model(Tokenizer& t, const Node& model) {
  const Node type = model["type"];  // absent in files of old
  if (!type.null() && type.text() != "BPE") model.refuse_type("BPE");
  model.allow_keys({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                    "byte_fallback", "ignore_merges", "vocab", "merges"});
  const Node dropout = model["dropout"];
  if (!dropout.null() && dropout.value != 0) dropout.refuse("dropout is not supported; supported: null or 0");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const Node affix = model[key]; !affix.null() && !affix.text().empty())
      affix.refuse("only null or \"\" is supported");

  read_vocab(t, model["vocab"]);
  read_merges(t, model["merges"]);
  t.ignore_merges = model["ignore_merges"].flag(false);
  t.fuse_unk = model["fuse_unk"].flag(false);
  if (const Node unk = model["unk_token"]; !unk.null()) {
    const auto found = t.vocab.find(unk.text());
    if (found == t.vocab.end()) unk.refuse(fmt::format("'{}' is not in the vocabulary", unk.text()));
    t.unk_id = found->second;
  }
  t.byte_tokens.fill(-1);
  t.byte_fallback = model["byte_fallback"].flag(false);
  for (int byte = 0; byte < 256 && t.byte_fallback; ++byte) {
    const std::string text = fmt::format("<0x{:02X}>", byte);
    const auto found = t.vocab.find(text);
    if (found == t.vocab.end())
      model["byte_fallback"].refuse(fmt::format("needs the token {} in the vocabulary", text));
    t.byte_tokens[byte] = found->second;
  }
}

std::string replacement(const Node& node) {
  const std::string text = node.text();
  if (text.size() > kMaxReplacement) node.refuse(fmt::format("{} bytes; at most {}", text.size(), kMaxReplacement));
  return text;
}

Rewrite read_replace(const Node& step) {
  step.allow_keys({"type", "pattern", "content"});
  step["pattern"].allow_keys({"String"});
  const Node from = step["pattern"]["String"];
  if (from.text().empty()) from.refuse("the text to replace is empty");
  return {from.text(), replacement(step["content"])};
}

void read_normalizer(Tokenizer& t, const Node& node) {
  for (const Node& step : flatten(node, "normalizers")) {
    const std::string type = step["type"].text();
    if (type == "Prepend") {
      step.allow_keys({"type", "prepend"});
      t.normalizer.push_back({{}, replacement(step["prepend"])});
    } else if (type == "Replace") {
      t.normalizer.push_back(read_replace(step));
    } else {
      step.refuse_type("Prepend, Replace, Sequence");
    }
  }
}

std::string one_character(const Node& node) {
  const std::string text = node.text();
  if (text.empty() || utf8_step(text).bytes != text.size()) node.refuse("must be one character");
  return text;
}

Metaspace read_metaspace(const Node& node) {
  node.allow_keys({"type", "replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
  Metaspace m{one_character(node["replacement"]), Metaspace::Prepend::always, node["split"].flag(true)};
  const Node scheme = node["prepend_scheme"];
  const std::string name = scheme.null() ? node["add_prefix_space"].flag(true) ? "always" : "never" : scheme.text();
  if (name == "never")
    m.prepend = Metaspace::Prepend::never;
  else if (name == "first")
    m.prepend = Metaspace::Prepend::first;
  else if (name != "always")
    scheme.refuse(fmt::format("'{}' is not supported; supported: always, first, never", name));
  return m;
}

void read_pre_tokenizer(Tokenizer& t, const Node& node) {
  const std::vector<Node> steps = flatten(node, "pretokenizers");
  for (const Node& step : steps) {
    const std::string type = step["type"].text();
    if (t.byte_level || t.metaspace) step.refuse("a step after ByteLevel or Metaspace is not supported");
    if (type == "Split") {
      step.allow_keys({"type", "pattern", "behavior", "invert"});
      step["pattern"].allow_keys({"Regex"});
      if (step["behavior"].text() != "Isolated") step["behavior"].refuse("only Isolated is supported");
      if (step["invert"].flag(false)) step["invert"].refuse("only false is supported");
      t.splits.emplace_back(step["pattern"]["Regex"].text());
    } else if (type == "ByteLevel") {
      step.allow_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      t.byte_level = true;
      t.add_prefix_space = step["add_prefix_space"].flag(true);
      if (t.add_prefix_space && !t.splits.empty())
        step["add_prefix_space"].refuse("only false is supported after Split");
      if (step["use_regex"].flag(true)) t.splits.emplace_back(kGpt2Pattern);
    } else if (type == "Metaspace" && steps.size() == 1) {
      t.metaspace = read_metaspace(step);
    } else {
      step.refuse_type("ByteLevel, Sequence of Split and ByteLevel, Metaspace by itself");
    }
  }
}

void read_added_tokens(Tokenizer& t, const Node& node) {
  if (node.null()) return;
  for (const Node& added : node.items()) {
    added.allow_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    const int32_t id = int32_t(added["id"].integer(kMaxVocab - 1));
    const std::string text = added["content"].text();
    for (const char* key : {"single_word", "lstrip", "rstrip"})
      if (added[key].flag(false)) added[key].refuse("only false is supported");
    if (const auto known = t.vocab.find(text); known != t.vocab.end() && known->second != id)
      added["id"].refuse(fmt::format("'{}' has the id {} in model.vocab", text, known->second));
    name_token(t, id, text, added.path);
    t.tokens[id].special = added["special"].flag(false);
    const bool normalized = added["normalized"].flag(false);
    if (normalized) t.tokens[id].bytes = rewrite(text, t.normalizer);
    if (t.tokens[id].bytes.size() > kMaxAddedToken)
      added["content"].refuse(fmt::format("longer than {} bytes", kMaxAddedToken));
    (normalized ? t.added_normalized : t.added).tokens.emplace_back(t.tokens[id].bytes, id);
  }
  for (TokenFinder* finder : {&t.added, &t.added_normalized}) {
    auto& tokens = finder->tokens;
    std::sort(tokens.begin(), tokens.end());
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0 && tokens[i].first == tokens[i - 1].first) node.refuse(fmt::format("'{}' twice", tokens[i].first));
      if (!tokens[i].first.empty()) finder->begins[uint8_t(tokens[i].first[0])] = true;
    }
  }
}

void read_post_processor(Tokenizer& t, const Node& node) {
  bool found = false;
  for (const Node& step : flatten(node, "processors")) {
    const std::string type = step["type"].text();
    if (type == "ByteLevel") continue;  // it moves offsets, not ids
    if (type != "TemplateProcessing") step.refuse_type("TemplateProcessing, ByteLevel, Sequence");
    if (found) step.refuse("a second TemplateProcessing is not supported");
    found = true;
    for (const Node& part : step["single"].items()) {
      if (part.value.contains("Sequence")) break;
      const std::string name = part["SpecialToken"]["id"].text();
      for (const Node& id : step["special_tokens"][name]["ids"].items()) {
        t.prefix.push_back(int32_t(id.integer(kMaxVocab - 1)));
        if (t.prefix.back() >= int64_t(t.tokens.size()) || t.tokens[t.prefix.back()].text.empty())
          id.refuse("no token has this id");
      }
    }
  }
  if (t.prefix.size() == 1) t.bos_id = t.prefix[0];
}

// Where a token decodes by itself, what it stands for; the rest of the decoder's work needs its neighbours.
void read_decoder(Tokenizer& t, const Node& node) {
  const std::vector<Node> steps = flatten(node, "decoders");
  const bool byte_level = steps.size() == 1 && steps[0]["type"].text() == "ByteLevel";
  if (byte_level != t.byte_level) node.refuse("must be ByteLevel if and only if the pre_tokenizer is");
  if (byte_level) return;  // read_bytes has done it
  std::vector<Rewrite> replace;
  bool byte_fallback = false, fuse = false;
  for (const Node& step : steps) {
    const std::string type = step["type"].text();
    const bool late = !t.strip.empty() || (fuse && type != "Strip") || (byte_fallback && type == "Replace");
    if (late) step.refuse("out of order; supported: Replace, ByteFallback, Fuse, Strip in this order");
    if (type == "Replace") {
      replace.push_back(read_replace(step));
    } else if (type == "ByteFallback") {
      byte_fallback = true;
    } else if (type == "Fuse") {
      fuse = true;
    } else if (type == "Strip") {
      step.allow_keys({"type", "content", "start", "stop"});
      if (!fuse) step.refuse("Strip without Fuse before it is not supported");
      step["stop"].integer(0);  // anything else is refused
      t.strip = one_character(step["content"]);
      t.strip_count = step["start"].integer(kMaxVocab);
    } else {
      step.refuse_type("Replace, ByteFallback, Fuse, Strip, Sequence; ByteLevel with that pre_tokenizer");
    }
  }
  size_t total = 0;
  for (Token& token : t.tokens) {
    token.bytes = rewrite(token.bytes, replace);
    const int byte = byte_fallback ? fallback_byte(token.bytes) : -1;
    token.partial = byte >= 0;
    if (token.partial) token.bytes = char(byte);
    if ((total += token.bytes.size()) > kMaxTokenBytes) node.refuse("makes the tokens too long");
  }
}

// Turns byte-level tokens, spelled in printing characters, into bytes.
void read_bytes(Tokenizer& t) {
  const std::array<std::string, 256> spelling = byte_spellings();
  StringMap<char> byte_of;
  for (int byte = 0; byte < 256; ++byte) byte_of.emplace(spelling[byte], char(byte));
  for (Token& token : t.tokens) {
    if (auto bytes = spelled_bytes(token.bytes, byte_of)) token.bytes = std::move(*bytes);
    token.partial = true;
  }
  StringMap<int32_t> vocab;
  vocab.reserve(t.vocab.size());
  for (const auto& [text, id] : t.vocab)
    if (auto bytes = spelled_bytes(text, byte_of)) vocab.emplace(std::move(*bytes), id);
  t.vocab = std::move(vocab);  // a token with other characters is never in a word
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = t.vocab.find(std::string_view(std::array{char(byte)}.data(), 1));
    t.byte_tokens[byte] = found == t.vocab.end() ? -1 : found->second;
  }
}

WordMarks find_word_marks(const Tokenizer& t) {
  constexpr std::string_view kMark = "▁";
  WordMarks marks;
  if (t.byte_level || t.ignore_merges || !t.splits.empty()) return marks;
  bool before = t.vocab.contains(kMark);
  std::vector<bool> merges(t.tokens.size());
  for (const auto& [left, right, merge] : t.merges.by_rank()) {
    merges[size_t(left)] = merges[size_t(right)] = true;
    std::string_view text = t.tokens[size_t(merge.token)].text;  // of the characters that it stands for
    while (text.starts_with(kMark)) text.remove_prefix(kMark.size());
    before = before && text.find(kMark) == text.npos;
  }
  if (before) marks.before = kMark;
  for (size_t c = 0; c < marks.around.size(); ++c) {
    const auto known = t.vocab.find(std::string(1, char(c)));
    const int32_t id = known != t.vocab.end() ? known->second : t.byte_tokens[c];
    marks.around[c] = id >= 0 && !merges[size_t(id)];
  }
  return marks;
}

// tokenizer_config.json names its special tokens by their text, or by an object with their text.
int32_t special_token(const Tokenizer& t, const Node& node, int32_t absent) {
  if (node.null()) return absent;
  const std::string text = (node.value.is_object() ? node["content"] : node).text();
  for (size_t id = 0; id < t.tokens.size(); ++id)
    if (t.tokens[id].text == text && !text.empty()) return int32_t(id);
  node.refuse(fmt::format("'{:.60}' is not a token", text));
}

std::filesystem::path config_beside(const std::filesystem::path& file) {
  return file.parent_path() / "tokenizer_config.json";
}

}  // namespace

Tokenizer parse_tokenizer(std::string_view text, std::string_view config, const std::string& name) {
  const json root_value = parse_json(text, name, kMaxDepth);
  const Node root{root_value, name + ":"};
  Tokenizer t;
  read_model(t, root["model"]);
  read_normalizer(t, root["normalizer"]);
  read_pre_tokenizer(t, root["pre_tokenizer"]);
  if (t.byte_level && t.byte_fallback) root["model"].refuse("byte_fallback with a ByteLevel pre_tokenizer");
  read_added_tokens(t, root["added_tokens"]);
  read_post_processor(t, root["post_processor"]);
  if (t.byte_level) read_bytes(t);
  read_decoder(t, root["decoder"]);
  t.marks = find_word_marks(t);
  const std::string config_name = config_beside(name).string();
  const json config_value = parse_json(config, config_name, kMaxDepth);
  const Node settings{config_value, config_name + ":"};
  t.bos_id = special_token(t, settings["bos_token"], t.bos_id);
  t.eos_id = special_token(t, settings["eos_token"], t.eos_id);
  return t;
}

Tokenizer load_tokenizer(const std::filesystem::path& path) {
  std::error_code unreadable;  // is for read_text_file to say
  const std::filesystem::path file = is_directory(path, unreadable) ? path / "tokenizer.json" : path;
  const std::filesystem::path config = config_beside(file);
  const bool has_config = exists(symlink_status(config, unreadable));
  const std::string text = read_text_file(file, kMaxFile);
  return parse_tokenizer(text, has_config ? read_text_file(config, kMaxFile) : "{}", file.string());
}

}  // namespace tangram
