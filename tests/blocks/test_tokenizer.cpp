#include "blocks/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "blocks/unicode.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

using json = nlohmann::json;
using testing::HasSubstr;

Tokenizer parse(const json& tokenizer, const std::string& config = "{}") {
  return parse_tokenizer(tokenizer.dump(), config, "tokenizer.json");
}

const json& golden() {
  static const json kGolden = json::parse(std::ifstream(TANGRAM_SOURCE_DIR "/tests/data/tokenizer_golden.json"));
  return kGolden;
}

json golden_tokenizer(const std::string& name) { return golden()[name]["tokenizer"]; }

// One token a character, without merges.
json characters(const std::vector<std::string>& symbols) {
  json vocab = json::object();
  for (size_t i = 0; i < symbols.size(); ++i) vocab[symbols[i]] = i;
  return {{"decoder", {{"type", "Fuse"}}}, {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", json::array()}}}};
}

json added_token(const std::string& content, int id, bool special) {
  return {{"id", id}, {"content", content}, {"special", special}, {"normalized", false}};
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += char(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::string stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) text += decoder.next(id);
  return text + decoder.finish();
}

void expect_golden(const Tokenizer& tokenizer, const json& expected, const std::string& name) {
  Encoder encoder(tokenizer, 64);  // so few that words take each other's place
  for (const json& c : expected["encode"]) {
    const EncodeOptions options{.add_bos = c["add_bos"], .parse_special = c["parse_special"]};
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(encode(tokenizer, c["text"].get<std::string>(), options), ids) << name << ": " << c["text"];
    EXPECT_EQ(encoder.encode(c["text"].get<std::string>(), options), ids) << name << ": " << c["text"];
  }
  for (const json& c : expected.value("invalid", json::array())) {
    const std::string text = replace_invalid_utf8(from_hex(c["bytes"]));
    EXPECT_EQ(encode(tokenizer, text, {.add_bos = false}), c["ids"].get<std::vector<int32_t>>())
        << name << ": " << c["bytes"];
  }
  for (const json& c : expected["decode"]) {
    const auto ids = c["ids"].get<std::vector<int32_t>>();
    const std::string text = c["text"];
    EXPECT_EQ(decode(tokenizer, ids, c["skip_special"]), text) << name << ": " << c["ids"];
    if (text.find(kReplacementCharacter) != text.npos) continue;  // the stream may keep more of what is not UTF-8
    EXPECT_EQ(stream(tokenizer, ids, c["skip_special"]), text);
  }
}

// Oracle: Hugging Face `tokenizers`, whose ids and texts tokenizer_golden.py has written down.
TEST(Tokenizer, EncodesAndDecodesAsHuggingFace) {
  int tokenizers = 0;
  for (const auto& [name, expected] : golden().items()) {
    if (!expected.contains("tokenizer")) continue;
    expect_golden(parse(expected["tokenizer"]), expected, name);
    ++tokenizers;
  }
  EXPECT_EQ(tokenizers, 8);
}

TEST(Tokenizer, RoundTripsEveryLineOfStories260k) {
  const std::filesystem::path folder = test_data() / "stories260k";
  if (!exists(folder)) GTEST_SKIP() << folder << " is not there; TANGRAM_TEST_DATA says where it is";
  const Tokenizer tokenizer = load_tokenizer(folder);
  EXPECT_EQ(tokenizer.tokens.size(), 512u);
  EXPECT_EQ(tokenizer.bos_id, 1);
  EXPECT_EQ(tokenizer.eos_id, 2);
  expect_golden(tokenizer, golden()["stories260k"], "stories260k");
  std::ifstream file(folder / "valid.jsonl");
  std::string line;
  int i = 0;
  for (; std::getline(file, line); ++i) {
    const std::string text = json::parse(line)["text"];
    const std::vector<int32_t> ids = encode(tokenizer, text);
    ASSERT_EQ(decode(tokenizer, ids), text) << "line " << i;
    EXPECT_EQ(golden()["stories260k"]["lines"].value(std::to_string(i), ids), ids) << "line " << i;
  }
  EXPECT_EQ(i, 275);
}

TEST(Tokenizer, ReadsMergesInBothSpellings) {
  json tokenizer = golden_tokenizer("llama3");
  const Tokenizer pairs = parse(tokenizer);
  for (json& merge : tokenizer["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const Tokenizer strings = parse(tokenizer);
  const std::string text = "First Citizen: Before we proceed any further, hear me speak.";
  EXPECT_EQ(encode(strings, text), encode(pairs, text));
}

// Oracle: by hand. Every word that GPT-2's expression must cut is a token of its own here.
TEST(Tokenizer, CutsWordsWithTheExpressionOfGpt2) {
  json tokenizer = golden_tokenizer("gpt2");
  tokenizer["pre_tokenizer"]["add_prefix_space"] = false;
  tokenizer["model"]["ignore_merges"] = true;
  tokenizer["model"]["merges"] = json::array();
  std::vector<int32_t> expected;
  for (const char* word : {"ab", "'ll", "Ġcd", "Ġ12", "Ġ?!", "ĠĠ", "Ġe", "34", "..", "ĊĠ"}) {
    expected.push_back(1000 + int32_t(expected.size()));
    tokenizer["model"]["vocab"][word] = expected.back();
  }
  EXPECT_EQ(encode(parse(tokenizer), "ab'll cd 12 ?!   e34..\n "), expected);
}

// Oracle: the definition. Merges the first pair of the lowest rank until there is none.
std::vector<int32_t> merge_by_definition(std::vector<int32_t> ids, const Merges& merges) {
  for (;;) {
    size_t best = ids.size();
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const Merge* merge = merges.find(ids[i], ids[i + 1]);
      if (merge && (best == ids.size() || merge->rank < merges.find(ids[best], ids[best + 1])->rank)) best = i;
    }
    if (best == ids.size()) return ids;
    ids[best] = merges.find(ids[best], ids[best + 1])->token;
    ids.erase(ids.begin() + ptrdiff_t(best) + 1);
  }
}

TEST(Bpe, MergesAsTheDefinitionSays) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    Merges merges;
    const int symbols = 2 + int(random() % 3);
    for (int token = symbols; token < 30; ++token)
      merges.insert_or_assign(int32_t(random() % uint32_t(token)), int32_t(random() % uint32_t(token)),
                              {int32_t(random() % 1000), token});
    std::vector<int32_t> ids(random() % 80);  // merged one by one up to 32, with a heap above
    for (int32_t& id : ids) id = int32_t(random() % uint32_t(symbols));
    std::vector<int32_t> merged = ids;
    bpe_merge(merged, merges);
    // Equal ranks of different pairs are ordered by place in both.
    EXPECT_EQ(merged, merge_by_definition(ids, merges)) << "round " << round;
  }
}

TEST(Tokenizer, WritesOneTokenACharacter) {
  json tokenizer = characters({"\n", " ", "a", "b", "é"});
  for (const json& decoder : {json{{"type", "Fuse"}}, json()}) {
    tokenizer["decoder"] = decoder;
    const Tokenizer t = parse(tokenizer, R"({"eos_token": "\n"})");
    EXPECT_EQ(t.tokens.size(), 5u);
    EXPECT_EQ(t.bos_id, -1);
    EXPECT_EQ(t.eos_id, 0);
    EXPECT_EQ(encode(t, " ab é\n"), (std::vector<int32_t>{1, 2, 3, 1, 4, 0}));
    EXPECT_EQ(decode(t, std::vector<int32_t>{1, 2, 3, 1, 4, 0}), " ab é\n");
    EXPECT_EQ(encode(t, ""), std::vector<int32_t>());
  }
}

TEST(Tokenizer, RefusesUnknownCharactersWithTheirPlace) {
  const Tokenizer plain = parse(characters({"a", "é"}));
  EXPECT_THAT(message_of([&] { encode(plain, "aéñ"); }), HasSubstr("byte 3: the vocabulary has no 'ñ' (U+00F1)"));
  EXPECT_THAT(message_of([&] { encode(plain, "a\n"); }), HasSubstr("byte 1: the vocabulary has no U+000A,"));

  json marked = characters({"a", "b", "<é>"});
  marked["added_tokens"] = {added_token("<é>", 2, true)};
  EXPECT_THAT(message_of([&] { encode(parse(marked), "a<é>bé"); }), HasSubstr("byte 6:"));
  marked["normalizer"] = {{"type", "Prepend"}, {"prepend", "▁"}};
  EXPECT_THAT(message_of([&] { encode(parse(marked), "a"); }), HasSubstr("no '▁' (U+2581), which the normalizer"));

  json bytes = golden_tokenizer("gpt2");
  bytes["model"]["vocab"] = {{"a", 0}};
  bytes["model"]["merges"] = json::array();
  bytes["added_tokens"] = json::array();
  bytes["pre_tokenizer"]["add_prefix_space"] = false;
  EXPECT_THAT(message_of([&] { encode(parse(bytes), "aaé"); }), HasSubstr("byte 2: the vocabulary has no byte 0xC3"));
}

TEST(Tokenizer, FindsTheLongestAddedTokenAndLeavesSpecialsInTextOnRequest) {
  json tokenizer = characters({"<", "e", ">", "<e>", "<e>>", "ee"});
  tokenizer["added_tokens"] = {added_token("<e>", 3, true), added_token("<e>>", 4, true), added_token("ee", 5, false)};
  const Tokenizer t = parse(tokenizer);
  EXPECT_EQ(encode(t, "<e><e>>eee<e"), (std::vector<int32_t>{3, 4, 5, 1, 0, 1}));
  EXPECT_EQ(encode(t, "<e>>ee", {.parse_special = false}), (std::vector<int32_t>{0, 1, 2, 2, 5}));
  EXPECT_EQ(decode(t, std::vector<int32_t>{3, 1, 4}), "e");
  EXPECT_EQ(decode(t, std::vector<int32_t>{3, 1, 4}, false), "<e>e<e>>");
}

TEST(Tokenizer, AddsWhatTheTemplatePutsBeforeTheTextOnly) {
  json tokenizer = characters({"a", "<s>", "</s>"});
  const auto special = [](const char* name, int id) { return json{{"id", name}, {"ids", {id}}, {"tokens", {name}}}; };
  tokenizer["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
        {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
        {{"SpecialToken", {{"id", "</s>"}, {"type_id", 0}}}}}},
      {"special_tokens", {{"<s>", special("<s>", 1)}, {"</s>", special("</s>", 2)}}},
  };
  const Tokenizer t = parse(tokenizer);
  EXPECT_EQ(encode(t, "a"), (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(encode(t, "a", {.add_bos = false}), std::vector<int32_t>{0});
  EXPECT_EQ(t.bos_id, 1);
  EXPECT_EQ(t.eos_id, -1);
  const Tokenizer named = parse(tokenizer, R"({"bos_token": {"content": "</s>"}, "eos_token": null})");
  EXPECT_EQ(named.bos_id, 2);
  EXPECT_EQ(named.eos_id, -1);
  EXPECT_THAT(message_of([&] { parse(tokenizer, R"({"eos_token": "<eos>"})"); }),
              HasSubstr("tokenizer_config.json: eos_token: '<eos>' is not a token"));
  tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"] = {3};
  EXPECT_THAT(message_of([&] { parse(tokenizer); }), HasSubstr("ids[0]: no token has this id"));
}

TEST(StreamDecoder, HoldsBackIncompleteCharacters) {
  const Tokenizer t = parse(golden_tokenizer("llama2"));
  const auto byte = [&](int value) { return t.byte_tokens[value]; };
  StreamDecoder decoder(t);
  EXPECT_EQ(decoder.next(t.vocab.at("▁the")), "the");  // the decoder takes off the first space
  EXPECT_EQ(decoder.next(t.vocab.at("▁the")), " the");
  EXPECT_EQ(decoder.next(byte(0xF0)), "");
  EXPECT_EQ(decoder.next(byte(0x9F)), "");
  EXPECT_EQ(decoder.next(byte(0x98)), "");
  EXPECT_EQ(decoder.next(byte(0x80)), "😀");
  EXPECT_EQ(decoder.next(byte(0xC3)), "");
  EXPECT_EQ(decoder.next(byte('x')), "\uFFFDx");
  EXPECT_EQ(decoder.next(byte(0xE4)), "");
  EXPECT_EQ(decoder.next(byte(0xB8)), "");
  EXPECT_EQ(decoder.next(t.vocab.at("▁the")), "\uFFFD the");
  EXPECT_EQ(decoder.next(byte(0xE4)), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");

  const Tokenizer bytes = parse(golden_tokenizer("llama3"));
  StreamDecoder split(bytes);
  EXPECT_EQ(split.next(bytes.byte_tokens[0xC3]), "");
  EXPECT_EQ(split.next(bytes.byte_tokens[0xA9]), "é");
}

TEST(Tokenizer, RefusesIdsWithoutAToken) {
  json tokenizer = characters({"a"});
  tokenizer["model"]["vocab"]["b"] = 2;  // 1 is nobody's
  const Tokenizer t = parse(tokenizer);
  EXPECT_EQ(t.tokens.size(), 3u);
  for (const int32_t id : {-1, 1, 3})
    EXPECT_THAT(message_of([&] { decode(t, std::vector<int32_t>{id}); }), HasSubstr("no token has the id"));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer t = parse(golden_tokenizer("llama3"));
  EXPECT_THAT(message_of([&] { encode(t, "abc\xFF"); }), HasSubstr("byte 3: the text is not UTF-8 (0xFF)"));
  EXPECT_THAT(message_of([&] { encode(t, "é\xE2\x82"); }), HasSubstr("byte 2: the text is not UTF-8 (0xE2)"));
}

TEST(Tokenizer, CutsAtMarksOnlyWhereNoMergeReachesOverThem) {
  json tokenizer = characters({"a", "b", "▁", "▁a", "a▁", "▁▁", "\n", "b\n", "!"});
  tokenizer["model"]["merges"] = {"▁ a", "▁ ▁"};
  const Tokenizer cut = parse(tokenizer);
  EXPECT_EQ(cut.marks.before, "▁");
  EXPECT_TRUE(cut.marks.around['\n'] && cut.marks.around['!'] && !cut.marks.around['a'] && !cut.marks.around['c']);
  EXPECT_EQ(encode(cut, "a▁▁▁a\nb▁"), (std::vector<int32_t>{0, 5, 3, 6, 1, 2}));
  tokenizer["model"]["merges"] = {"a ▁", "▁ a", "b \n"};
  const Tokenizer whole = parse(tokenizer);
  EXPECT_EQ(whole.marks.before, "");
  EXPECT_TRUE(!whole.marks.around['\n'] && whole.marks.around['!']);
  EXPECT_EQ(encode(whole, "a▁ab\n"), (std::vector<int32_t>{4, 0, 7}));
}

TEST(WordCache, FindsWhatWasPutAndNothingElse) {
  WordCache cache(2);
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const std::span<const int32_t> eight(ids.data(), 8);
  for (const std::string& word : {std::string("a"), std::string("a\0", 2), std::string(30, 'x')}) {
    EXPECT_FALSE(cache.find(word));
    cache.put(word, eight);
    ASSERT_TRUE(cache.find(word));
    EXPECT_THAT(*cache.find(word), testing::ElementsAreArray(eight));
    EXPECT_FALSE(cache.find(word + "y"));
  }
  cache.put(std::string(31, 'x'), eight), cache.put("b", ids);
  EXPECT_FALSE(cache.find(std::string(31, 'x')));
  EXPECT_FALSE(cache.find("b"));
}

// What is written down for the format is refused by its key: a JSON pointer, the value put there, the message.
struct Refusal {
  const char* pointer;
  json value;
  const char* message;
};

TEST(Tokenizer, RefusesWhatItDoesNotSupport) {
  const Refusal refusals[] = {
      {"/model/type", "Unigram", "tokenizer.json: model: the type 'Unigram' is not supported; supported: BPE"},
      {"/model", nullptr, "model: null where an object is expected"},
      {"/model/dropout", 0.1, "model.dropout: dropout is not supported"},
      {"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix: only null"},
      {"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix: only null"},
      {"/model/cache", 1, "model: the key 'cache' is not supported; supported: type, dropout"},
      {"/model/byte_fallback", 1, "model.byte_fallback: number where true or false is expected"},
      {"/model/byte_fallback", true, "model.byte_fallback: needs the token <0x00> in the vocabulary"},
      {"/model/unk_token", "<unk>", "model.unk_token: '<unk>' is not in the vocabulary"},
      {"/model/vocab", json::array(), "model.vocab: array where an object of tokens and ids is expected"},
      {"/model/vocab/c", -1, "model.vocab.c: -1 where a whole number from 0 to 1048575 is expected"},
      {"/model/vocab/c", 1048576, "model.vocab.c: 1048576 where a whole number"},
      {"/model/vocab/c", 1.5, "model.vocab.c: 1.5 where a whole number"},
      {"/model/vocab/c", 0, "model.vocab: the id 0 is that of 'a' and of 'c'"},
      {"/model/vocab/", 9, "model.vocab: the token of id 9 is empty"},
      {"/model/merges", {"a b", "ab"}, "model.merges[1]: must be two tokens and one space"},
      {"/model/merges", {"a b c"}, "model.merges[0]: must be two tokens and one space"},
      {"/model/merges", {json{"a", "b", "c"}}, "model.merges[0]: must be \"a b\" or"},
      {"/model/merges", {"a c"}, "model.merges[0]: 'a', 'c' or both together are not in the vocabulary"},
      {"/model/merges", {"b a"}, "model.merges[0]: 'b', 'a' or both together"},
      {"/normalizer", {{"type", "NFC"}}, "normalizer: the type 'NFC' is not supported; supported: Prepend, Replace"},
      {"/normalizer",
       {{"type", "Replace"}, {"pattern", {{"Regex", " +"}}}, {"content", " "}},
       "normalizer.pattern: the key 'Regex' is not supported; supported: String"},
      {"/normalizer",
       {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", " "}},
       "normalizer.pattern.String: the text to replace is empty"},
      {"/normalizer", {{"type", "Prepend"}, {"prepend", std::string(65, ' ')}}, "normalizer.prepend: 65 bytes"},
      {"/pre_tokenizer", {{"type", "Whitespace"}}, "pre_tokenizer: the type 'Whitespace' is not supported"},
      {"/pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}},
       "pre_tokenizer.pretokenizers[1]: a step after ByteLevel"},
      {"/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "__"}}, "pre_tokenizer.replacement: must be one"},
      {"/pre_tokenizer",
       {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}},
       "pre_tokenizer.prepend_scheme: 'last' is not supported; supported: always, first, never"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Removed"}},
       "pre_tokenizer.behavior: only Isolated"},
      {"/pre_tokenizer", {{"type", "ByteLevel"}}, "decoder: must be ByteLevel if and only if the pre_tokenizer is"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder: the type 'WordPiece' is not supported; supported: Replace"},
      {"/decoder", {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}, "decoder: Strip without Fuse"},
      {"/decoder",
       {{"type", "Sequence"}, {"decoders", {{{"type", "Fuse"}}, {{"type", "ByteFallback"}}}}},
       "decoder.decoders[1]: out of order"},
      {"/decoder", {{"type", "Sequence"}, {"decoders", json(17, {{"type", "Fuse"}})}}, "decoder: 17 steps; at most 16"},
      {"/post_processor", {{"type", "BertProcessing"}}, "post_processor: the type 'BertProcessing' is not supported"},
      {"/added_tokens", {{{"id", 5}, {"content", "x"}, {"lstrip", true}}}, "added_tokens[0].lstrip: only false"},
      {"/added_tokens", {{{"id", 5}, {"content", "a"}}}, "added_tokens[0].id: 'a' has the id 0 in model.vocab"},
      {"/added_tokens", {{{"id", 0}, {"content", "x"}}}, "added_tokens[0]: the id 0 is that of 'a' and of 'x'"},
      {"/added_tokens", {added_token("x", 5, true), added_token("x", 6, true)}, "added_tokens: 'x' twice"},
      {"/added_tokens", {added_token(std::string(1025, 'x'), 5, true)}, "added_tokens[0].content: longer than 1024"},
  };
  json valid = characters({"a", "b", "ab"});
  valid["model"]["merges"] = {"a b"};
  EXPECT_EQ(encode(parse(valid), "aab"), (std::vector<int32_t>{0, 2}));
  for (const Refusal& refusal : refusals) {
    json tokenizer = valid;
    tokenizer[json::json_pointer(refusal.pointer)] = refusal.value;
    EXPECT_THAT(message_of([&] { parse(tokenizer); }), HasSubstr(refusal.message)) << refusal.pointer;
  }
}

TEST(Tokenizer, RefusesBrokenFiles) {
  TestFolder folder;
  EXPECT_THAT(message_of([&] { load_tokenizer(folder.path); }), HasSubstr("tokenizer.json"));
  write_text(folder.path / "tokenizer.json", "{\"model\": ");
  EXPECT_THAT(message_of([&] { load_tokenizer(folder.path); }), HasSubstr("tokenizer.json: "));
  write_text(folder.path / "tokenizer.json", std::string(100, '[') + std::string(100, ']'));
  EXPECT_THAT(message_of([&] { load_tokenizer(folder.path); }), HasSubstr("nested deeper than 32 levels"));
  write_text(folder.path / "tokenizer.json", characters({"a"}).dump());
  write_text(folder.path / "tokenizer_config.json", R"({"eos_token": "a"})");
  EXPECT_EQ(load_tokenizer(folder.path).eos_id, 0);
  EXPECT_EQ(load_tokenizer(folder.path / "tokenizer.json").eos_id, 0);
  write_text(folder.path / "tokenizer_config.json", "");
  EXPECT_THAT(message_of([&] { load_tokenizer(folder.path); }),
              HasSubstr((folder.path / "tokenizer_config.json").string() + ": parse error"));
  std::filesystem::remove(folder.path / "tokenizer_config.json");
  std::filesystem::create_symlink("tokenizer_config.json", folder.path / "tokenizer_config.json");
  EXPECT_THAT(message_of([&] { load_tokenizer(folder.path); }),
              HasSubstr("tokenizer_config.json: cannot be read: Too many levels"));
  std::filesystem::resize_file(folder.path / "tokenizer.json", (64 << 20) + 1);
  EXPECT_THAT(message_of([&] { load_tokenizer(folder.path); }), HasSubstr("67108864"));
}

}  // namespace
}  // namespace tangram
