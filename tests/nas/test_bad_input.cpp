// Bad input through the command line: each kind of damage, with the message that names the file and what is wrong.
// Oracle: the messages, written out.

#include "tests/nas/bad_input.h"

#include <unistd.h>

#include "blocks/safetensors.h"

namespace tangram {
namespace {

using json = nlohmann::json;
using Change = std::function<void()>;

constexpr const char* kWeights = "m/model.safetensors";
constexpr const char* kIndex = "m/model.safetensors.index.json";
constexpr const char* kConfig = "m/config.json";
constexpr const char* kTokenizer = "m/tokenizer.json";
constexpr const char* kNorm = "model.norm.weight";

constexpr const char* kPretrain =
    R"(teacher:
  pretrain: {model: {hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}}
data: {skills: {}, sequence_length: 128}
search_space: {ffn: [no_opp]}
run_dir: r
)";
const std::string kKeys =
    "teacher, data, search_space, distill, score, scenarios, hardware, constraints, solutions, rescore, baselines, "
    "uptrain, "
    "evaluate, export, run_dir, seed, threads, checkpoint";
const std::string kNoVariant =
    "search_space.ffn.0: no ffn variant 'no_opp'; did you mean 'no_op'? known: linear, no_op, ffn_<size>, a ratio such "
    "as 0.5";

const std::string kTooShort = ": the text is too short for one sequence of 8 tokens";

const Arguments kLogits{"logits", "m", "--tokens", "ids", "--output", "out"};
const Arguments kGenerate{"generate", "m", "abc"};
const Arguments kEvaluate{"evaluate", "m", "--data", "text.jsonl", "--sequence-length", "8"};
const Arguments kEvaluateTxt{"evaluate", "m", "--data", "text.txt", "--sequence-length", "8"};
const Arguments kRun{"run", "c.yaml", "--quiet"};
const Arguments kRunTxt{"run", "c.yaml", "--quiet", "--set", "data.train=[text.txt]"};

// --- the damage ---

Change text_is(const char* path, std::string text) {
  return [=] { write_text(path, text); };
}
Change is_cut(const char* path, int64_t bytes_less) {
  return [=] { fs::resize_file(path, fs::file_size(path) - uintmax_t(bytes_less)); };
}
Change is_missing(const char* path) {
  return [=] { fs::remove(path); };
}
Change is_folder(const char* path) {
  return [=] { fs::remove(path), fs::create_directory(path); };
}
Change is_link_to_itself(const char* path) {
  return [=] { fs::remove(path), fs::create_symlink(fs::path(path).filename(), path); };
}
Change is_link_to_nothing(const char* path) {
  return [=] { fs::remove(path), fs::create_symlink("gone", path); };
}
Change header(std::function<void(json&)> change) {
  return [=] { change_header(kWeights, change); };
}
Change header_text(std::function<void(std::string&)> change) {
  return [=] { change_header_text(kWeights, change); };
}
Change header_is(std::string text) {
  return header_text([=](std::string& header) { header = text; });
}
Change norm(const char* key, json value) {
  return header([=](json& h) { h[kNorm][key] = value; });
}
Change norm_is_called(const std::string& name) {
  return header([=](json& h) { h[name] = h[kNorm], h.erase(kNorm); });
}
Change config(const char* key, json value) {
  return [=] { change_json(kConfig, [&](json& j) { j[key] = value; }); };
}
Change tokenizer(std::function<void(json&)> change) {
  return [=] { change_json(kTokenizer, change); };
}

TEST_F(BadInput, DamagedWeights) {
  const std::string file = std::string(kWeights) + ": ", the_norm = file + "tensor 'model.norm.weight': ";
  expect_refused(
      {kLogits, kGenerate, kEvaluate, kRun},
      {{"missing", is_missing(kWeights), "m: neither model.safetensors nor model.safetensors.index.json is there"},
       {"folder", is_folder(kWeights), file + "is no regular file"},
       {"link to nothing", is_link_to_nothing(kWeights), file + "cannot be read: No such file or directory"},
       {"link to itself", is_link_to_itself(kWeights), file + "cannot be read: Too many levels of symbolic links"},
       {"empty", text_is(kWeights, ""), file + "0 bytes are no safetensors file"},
       {"cut in the length", text_is(kWeights, "1234567"), file + "7 bytes are no safetensors file"},
       {"another format", text_is(kWeights, "PK\3\4 a checkpoint of another format"),
        file + "a header of 7142815799143779152 bytes; allowed: at most 100000000. Is it a safetensors file?"},
       {"oversized header", text_is(kWeights, file_of("{}", "", int64_t{1} << 62)),
        file + "a header of 4611686018427387904 bytes; allowed: at most 100000000. Is it a safetensors file?"},
       {"header behind the end", text_is(kWeights, file_of("{}", "", 3)),
        file + "a header of 3 bytes in a file of 10: it is cut short or damaged"},
       {"cut by a byte", is_cut(kWeights, 1),
        file + "tensor 'lm_head.weight': ends at byte 98944 of the data, but the file has only 98943: it is cut short "
               "or damaged"},
       {"a byte too many", [] { change_text(kWeights, [](std::string& s) { s += 'x'; }); },
        file + "the last 1 bytes belong to no tensor"},
       {"header of words", header_is("hello"), file + "the header does not start with '{'"},
       {"header cut", header_text([](std::string& s) { s.resize(s.size() / 2); }),
        file + "header: parse error at line 1, column 1501: …"},
       {"header not UTF-8", header_is("{\"a\xFF\": 1}"), file + "header: parse error at line 1, column 4: …"},
       {"header a list", header_is("[]"), file + "the header does not start with '{'"},
       {"a key twice", header_is(R"({"a": {}, "a": {}})"), file + "header: the key 'a' stands there twice"},
       {"overlap", norm("data_offsets", {0, 128}),
        file + "tensor 'model.embed_tokens.weight' begins at byte 0 of the data, inside of the tensor before it"},
       {"hole", header([](json& h) { h.erase(kNorm); }),
        file + "bytes 95872 to 96000 of the data, before tensor 'lm_head.weight', belong to no tensor"},
       {"offsets out of range", norm("data_offsets", {0, int64_t{1} << 60}),
        file + "tensor 'model.norm.weight': ends at byte 1152921504606846976 of the data, but the file has only 98944: "
               "it is cut short or damaged"},
       {"offsets backwards", norm("data_offsets", {128, 0}),
        file + "tensor 'model.norm.weight': data_offsets [128, 0]; allowed: [begin, end] with begin <= end"},
       {"offsets negative", norm("data_offsets", {-128, 0}),
        file + "tensor 'model.norm.weight': data_offsets [-128,0]; allowed: whole numbers from 0 on"},
       {"unknown dtype", norm("dtype", "F64"),
        file + "tensor 'model.norm.weight': dtype \"F64\"; allowed: F32, F16, BF16, I32, I64, U8"},
       {"wrong dtype", norm("dtype", "I32"), file + "tensor 'model.norm.weight' is i32; allowed: f32, bf16, f16"},
       {"dtype of another size", norm("dtype", "BF16"),
        file + "tensor 'model.norm.weight': the shape (1, 32) of BF16 does not take the 128 bytes that data_offsets "
               "[95872, 96000] give it"},
       {"negative shape", norm("shape", {-32}),
        file + "tensor 'model.norm.weight': shape [-32]; allowed: whole numbers from 0 on"},
       {"shape of three", norm("shape", {32, 1, 1}),
        file + "tensor 'model.norm.weight': shape [32,1,1]; allowed: a list of at most 2 numbers"},
       {"wrong shape", norm("shape", {16, 2}),
        file + "tensor 'model.norm.weight' is (16, 2) where (1, 32) is expected; config.json asks for it"},
       {"tensor missing", norm_is_called("model.nrm.weight"),
        file + "no tensor 'model.norm.weight'; the nearest is 'model.nrm.weight'; config.json asks for it"},
       {"tensor too many", header([](json& h) {
          h["model.bias"] = {{"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
        }),
        file + "tensor 'model.bias' belongs to no part of the model that config.json describes"},
       {"a name that steers the terminal", header([](json& h) {
          h["a\x1b[2J\nb"] = {{"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
        }),
        file + "tensor 'a\\x1B[2J\\x0Ab' belongs to no part of the model that config.json describes"}});
}

// Weights are looked at by everything that reads a model.
TEST_F(BadInput, DamagedWeightsWhereverTheyAreRead) {
  expect_refused({{"bench", "m"},
                  {"inspect", "m"},
                  {"generate", "m", "abc", "--json"},
                  {"generate", "m", "abc", "--dtype", "bf16"},
                  {"evaluate", "model", "--teacher", "m", "--data", "text.jsonl"},
                  {"prepare", "c.yaml", "--quiet"}},
                 {{"cut", is_cut(kWeights, 1),
                   "m/model.safetensors: tensor 'lm_head.weight': ends at byte 98944 of the data, but the file has "
                   "only 98943: it is cut short or damaged"}});
}

TEST_F(BadInput, ShardsAndIndexThatDisagree) {
  const auto shards = [](std::function<void(json&)> change) {
    return [=] {
      fs::rename(kWeights, "m/a.safetensors");
      std::map<std::string, std::string> map;
      for (const auto& [name, ignored] : read_safetensors("m/a.safetensors").tensors) map[name] = "a.safetensors";
      json index{{"weight_map", map}};
      change(index);
      write_text(kIndex, index.dump());
    };
  };
  const auto index_is = [=](const std::string& text) {
    return [=] { fs::remove(kWeights), write_text(kIndex, text); };
  };
  const std::string index = std::string(kIndex) + ": ";
  expect_refused({kLogits, kGenerate, kEvaluate, kRun},
                 {{"shard missing", shards([](json& j) {
                     for (json& file : j["weight_map"]) file = "b.safetensors";
                   }),
                   "m/b.safetensors: cannot be read: No such file or directory"},
                  {"tensor not in its shard", shards([](json& j) { j["weight_map"]["x"] = "a.safetensors"; }),
                   index + "tensor 'x' is not in a.safetensors"},
                  {"tensor not in the index", shards([](json& j) { j["weight_map"].erase(kNorm); }),
                   index + "tensor 'model.norm.weight' is in a.safetensors, where the index does not list it"},
                  {"shard in another folder", shards([](json& j) { j["weight_map"][kNorm] = "../a.safetensors"; }),
                   index + "tensor 'model.norm.weight': \"../a.safetensors\"; allowed: the name of a .safetensors file "
                           "in the same folder"},
                  {"shard cut",
                   [=] {
                     shards([](json&) {})();
                     is_cut("m/a.safetensors", 1)();
                   },
                   "m/a.safetensors: tensor 'lm_head.weight': ends at byte 98944 of the data, but the file has only "
                   "98943: it is cut short or damaged"},
                  {"no map", index_is("{}"), index + "no object 'weight_map'"},
                  {"empty map", index_is(R"({"weight_map": {}})"),
                   "m: no tensor 'model.embed_tokens.weight'; config.json asks for it"},
                  {"empty", index_is(""), index + "parse error at line 1, column 1: …"},
                  {"a tensor twice", index_is(R"({"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}})"),
                   index + "the key 'a' stands there twice"},
                  {"folder", [] { fs::remove(kWeights), fs::create_directory(kIndex); },
                   index + "cannot be read: Is a directory"}});
}

TEST_F(BadInput, ConfigJsonThatIsDamagedOrDisagreesWithTheTensors) {
  const std::string file = std::string(kConfig) + ": ", weights = std::string(kWeights) + ": ";
  expect_refused(
      {kLogits, kGenerate, kEvaluate, kRun},
      {{"missing", is_missing(kConfig), file + "cannot be read: No such file or directory"},
       {"folder", is_folder(kConfig), file + "cannot be read: Is a directory"},
       {"link to itself", is_link_to_itself(kConfig), file + "cannot be read: Too many levels of symbolic links"},
       {"empty", text_is(kConfig, ""), file + "parse error at line 1, column 1: …"},
       {"cut", is_cut(kConfig, 10), file + "parse error at line 26, column 12: …"},
       {"no object", text_is(kConfig, "[]"), file + "found []; allowed: an object"},
       {"not UTF-8", text_is(kConfig, "{\"model_type\": \"\xFF\"}"), file + "parse error at line 1, column 17: …"},
       {"a key twice", text_is(kConfig, R"({"vocab_size": 23, "vocab_size": 24})"),
        file + "the key 'vocab_size' stands there twice"},
       {"NaN", text_is(kConfig, R"({"model_type": "llama", "vocab_size": NaN})"),
        file + "parse error at line 1, column 39: …"},
       {"infinite", text_is(kConfig, R"({"model_type": "llama", "vocab_size": 1e999})"),
        file + "number overflow parsing '1e999'"},
       {"another model", config("model_type", "gpt2"), file + "no model_type 'gpt2'; known: llama, nemotron-nas"},
       {"no size", config("hidden_size", nullptr), file + "no key 'hidden_size'"},
       {"negative size", config("hidden_size", -32),
        file + "hidden_size: found -32; allowed: a whole number from 1 to 262144"},
       {"size of 0", config("num_attention_heads", 0),
        file + "num_attention_heads: found 0; allowed: a whole number from 1 to 4096"},
       {"huge size", config("vocab_size", int64_t{1} << 40),
        file + "vocab_size: found 1099511627776; allowed: a whole number from 1 to 4194304"},
       {"size with a fraction", config("intermediate_size", 48.5),
        file + "intermediate_size: found 48.5; allowed: a whole number from 1 to 4194304"},
       {"size as text", config("num_hidden_layers", "3"),
        file + "num_hidden_layers: found \"3\"; allowed: a whole number from 1 to 4096"},
       {"heads that do not divide", config("num_key_value_heads", 3),
        file + "num_key_value_heads: found 3; allowed: a divisor of the 4 attention heads"},
       {"negative epsilon", config("rms_norm_eps", -1e-5),
        file + "rms_norm_eps: found -1e-05; allowed: a number above 0 and at most 1"},
       {"token beyond the vocabulary", config("eos_token_id", 23),
        file + "eos_token_id: found 23; allowed: a whole number from 0 to 22"},
       {"another vocabulary", config("vocab_size", 24),
        weights + "tensor 'model.embed_tokens.weight' is (23, 32) where (24, 32) is expected; config.json asks for it"},
       {"another width", config("intermediate_size", 40),
        weights + "tensor 'model.layers.0.mlp.gate_proj.weight' is (48, 32) where (40, 32) is expected; config.json "
                  "asks for it"},
       {"other heads", config("num_key_value_heads", 4),
        weights + "tensor 'model.layers.0.self_attn.k_proj.weight' is (16, 32) where (32, 32) is expected; config.json "
                  "asks for it"},
       {"more layers", config("num_hidden_layers", 4),
        weights + "no tensor 'model.layers.3.input_layernorm.weight'; the nearest is "
                  "'model.layers.0.input_layernorm.weight'; config.json asks for it"},
       {"fewer layers", config("num_hidden_layers", 2),
        weights + "tensor 'model.layers.2.input_layernorm.weight' belongs to no part of the model that config.json "
                  "describes; the nearest that does is 'model.layers.0.input_layernorm.weight'"},
       {"a tied head", config("tie_word_embeddings", true),
        weights + "lm_head.weight is stored, and not as the embedding, though tie_word_embeddings is true"}});
}

TEST_F(BadInput, DamagedTokenizer) {
  constexpr const char* kSettings = "m/tokenizer_config.json";
  const std::string file = std::string(kTokenizer) + ": ";
  expect_refused(
      {kGenerate, kEvaluate, kRun},
      {{"missing", is_missing(kTokenizer), file + "cannot be read: No such file or directory"},
       {"folder", is_folder(kTokenizer), file + "cannot be read: Is a directory"},
       {"link to itself", is_link_to_itself(kTokenizer), file + "cannot be read: Too many levels of symbolic links"},
       {"empty", text_is(kTokenizer, ""), file + "parse error at line 1, column 1: …"},
       {"cut", is_cut(kTokenizer, 10), file + "parse error at line 1, column 214: …"},
       {"not UTF-8", text_is(kTokenizer, "{\"model\": \"\xFF\"}"), file + "parse error at line 1, column 12: …"},
       {"another kind", tokenizer([](json& j) { j["model"]["type"] = "Unigram"; }),
        file + "model: the type 'Unigram' is not supported; supported: BPE"},
       {"negative id", tokenizer([](json& j) { j["model"]["vocab"]["a"] = -1; }),
        file + "model.vocab.a: -1 where a whole number from 0 to 1048575 is expected"},
       {"huge id", tokenizer([](json& j) { j["model"]["vocab"]["a"] = int64_t{1} << 40; }),
        file + "model.vocab.a: 1099511627776 where a whole number from 0 to 1048575 is expected"},
       {"an id twice", tokenizer([](json& j) { j["model"]["vocab"]["a"] = 1; }),
        file + "model.vocab: the id 1 is that of 'a' and of 'b'"},
       {"settings empty", text_is(kSettings, ""), "m/tokenizer_config.json: parse error at line 1, column 1: …"},
       {"settings a folder", [=] { fs::create_directory(kSettings); },
        "m/tokenizer_config.json: cannot be read: Is a directory"},
       {"end of text unknown", text_is(kSettings, R"({"eos_token": "x"})"),
        "m/tokenizer_config.json: eos_token: 'x' is not a token"}});
  expect_refused({kGenerate}, {{"fewer tokens than config.json's", tokenizer([](json& j) {
                                  j["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"c", 2}};
                                }),
                                file + "no token has the id …"}});
  const Change beyond = tokenizer([](json& j) { j["model"]["vocab"]["a"] = 23; });
  expect_refused({kGenerate}, {{"a token beyond config.json's", beyond,
                                file + "the prompt's token 'a' is 23; the vocab_size of config.json is 23"}});
  expect_refused({kEvaluate}, {{"a token beyond config.json's", beyond,
                                "text.jsonl: sequence 0 has token 23 of a vocabulary of 23"}});
}

TEST_F(BadInput, Prompts) {
  expect_refused({"generate", "m", "ab\xFF"}, "the prompt: byte 2: the text is not UTF-8 (0xFF)");
  expect_refused({"generate", "m", "ab\xE2\x82", "--json"}, "the prompt: byte 2: the text is not UTF-8 (0xE2)");
  expect_refused({"generate", "m", "abc\u00e9"},
                 "the prompt: byte 3: the vocabulary has no 'é' (U+00E9), and there is no unk_token");
  expect_refused({"generate", "m", "ab\x1b"},
                 "the prompt: byte 2: the vocabulary has no U+001B, and there is no unk_token");
  expect_refused({"generate", "m", ""}, "the prompt has no tokens");
  expect_refused({"generate", "m", letters(64, 1)}, "the prompt has 64 tokens; the model has positions for 64");
  expect_refused({"generate", "m", "abc", "--temperature", "nan"}, "temperature nan: must be 0 or positive");
}

TEST_F(BadInput, Tokens) {
  const auto ids_are = [](const std::vector<int32_t>& ids, const char* dtype = "I32", const char* name = "input_ids") {
    const std::string bytes(reinterpret_cast<const char*>(ids.data()), 4 * ids.size());
    const json shape = dtype == std::string("I64") ? ids.size() / 2 : ids.size();
    return text_is(
        "ids", file_of(json{{name, {{"dtype", dtype}, {"shape", {shape}}, {"data_offsets", {0, bytes.size()}}}}}.dump(),
                       bytes));
  };
  expect_refused(
      {kLogits},
      {{"missing", is_missing("ids"), "ids: cannot be read: No such file or directory"},
       {"folder", is_folder("ids"), "ids: is no regular file"},
       {"empty", text_is("ids", ""), "ids: 0 bytes are no safetensors file"},
       {"text", text_is("ids", "1 2 3 4 5 6"),
        "ids: a header of 2320515111958224945 bytes; allowed: at most 100000000. Is it a safetensors file?"},
       {"cut", is_cut("ids", 1),
        "ids: tensor 'input_ids': ends at byte 12 of the data, but the file has only 11: it is cut short or damaged"},
       {"beyond the vocabulary", ids_are({1, 2, 23}),
        "ids: 'input_ids' has 23 at place 2; the model's vocabulary has 23"},
       {"negative", ids_are({1, -2, 3}), "ids: 'input_ids' has -2 at place 1; the model's vocabulary has 23"},
       {"none", ids_are({}), "ids: 'input_ids' has 0 ids; allowed: 1 to 2147483647"},
       {"i64", ids_are({1, 0}, "I64"), "ids: 'input_ids' is i64; allowed: i32"},
       {"f32", ids_are({1}, "F32"), "ids: 'input_ids' is f32; allowed: i32"},
       {"another name", ids_are({1}, "I32", "ids"), "ids: no tensor 'input_ids'"}});
}

TEST_F(BadInput, Outputs) {
  const auto with_output = [](const char* output) {
    return Arguments{"logits", "m", "--tokens", "ids", "--output", output};
  };
  expect_refused(with_output("m"), "--output m: is a folder; give a file in it");
  expect_refused(with_output("none/out"), "--output none/out: there is no folder none");
  expect_refused(with_output("ids/out"), "--output ids/out: there is no folder ids");
  expect_refused(with_output(""), "'' is no name for a file");
}

TEST_F(BadInput, Paths) {
  fs::create_symlink("loop", "loop");
  const std::string too_long(300, 'x'), prompt(5000, 'x');
  for (const auto& [folder, reason] : std::map<std::string, std::string>{{"none", "No such file or directory"},
                                                                         {"ids", "Not a directory"},
                                                                         {"loop", "Too many levels of symbolic links"},
                                                                         {too_long, "File name too long"}}) {
    const std::string message = folder + "/config.json: cannot be read: " + reason;
    expect_refused({"generate", folder, prompt}, message);
    expect_refused({"logits", folder, "--tokens", "ids", "--output", "out"}, message);
    expect_refused({"evaluate", folder, "--data", "text.jsonl"}, message);
    expect_refused({"evaluate", "m", "--data", "text.jsonl", "--teacher", folder}, message);
    expect_refused({"bench", folder}, message);
  }
}

// --- text ---

TEST_F(BadInput, TextInJsonLines) {
  const std::string line = letters_jsonl(1, 8), second = "text.jsonl:2: ";
  const auto lines = [&](const std::string& text) { return text_is("text.jsonl", line + text); };
  expect_refused(
      {kEvaluate, kRun},
      {{"not UTF-8", lines("{\"text\": \"\xFF\"}"), second + "not UTF-8 (byte 0xFF)"},
       {"no JSON", lines("abc"), second + "parse error at line 1, column 1: …"},
       {"cut", lines(R"({"text": "abc)"), second + "parse error at line 1, column 14: …"},
       {"no object", lines("[1]"), second + "expected an object {\"text\": \"…\"}, found array"},
       {"no text", lines(R"({"txt": "abc"})"), second + "the object has no \"text\""},
       {"a number", lines(R"({"text": 1})"), second + "\"text\" is no string but number"},
       {"half a character", lines(R"({"text": "\ud800"})"), second + "parse error at line 1, column 17: …"},
       {"a key twice", lines(R"({"text": "abc", "text": "abd"})"), second + "the key 'text' stands there twice"},
       {"nested deep", lines(std::string(100'000, '[')), second + "nested deeper than 64 levels"},
       {"unknown character", lines("{\"text\": \"abcz\"}"),
        second + "byte 3: the vocabulary has no 'z' (U+007A), and there is no unk_token"},
       {"empty", text_is("text.jsonl", ""), "text.jsonl" + kTooShort},
       {"blank", text_is("text.jsonl", "\n \n"), "text.jsonl" + kTooShort},
       {"empty text", text_is("text.jsonl", "{\"text\": \"\"}\n"), "text.jsonl" + kTooShort},
       {"shorter than a sequence", text_is("text.jsonl", "{\"text\": \"abcdefgh\"}"), "text.jsonl" + kTooShort}});
}

TEST_F(BadInput, TextAsItIs) {
  expect_refused({kEvaluateTxt, kRunTxt},
                 {{"not UTF-8", text_is("text.txt", "abc\nab\xC3"), "text.txt:2: not UTF-8 (byte 0xC3)"},
                  {"UTF-16",
                   text_is("text.txt",
                           "\xFF\xFE"
                           "a"),
                   "text.txt:1: not UTF-8 (byte 0xFF)"},
                  {"unknown character", text_is("text.txt", "abc\nabc"),
                   "text.txt: byte 3: the vocabulary has no U+000A, and there is no unk_token"},
                  {"empty", text_is("text.txt", ""), "text.txt" + kTooShort},
                  {"shorter than a sequence", text_is("text.txt", "abcdefgh"), "text.txt" + kTooShort}});
  const std::string missing = "cannot be read: No such file or directory",
                    loop = "cannot be read: Too many levels of symbolic links";
  const std::string in_run = "--set data.train=[text.txt]: data.train.0: no file or folder 'text.txt'";
  expect_refused({kEvaluateTxt}, {{"missing", is_missing("text.txt"), "text.txt: " + missing},
                                  {"folder", is_folder("text.txt"), "text.txt: is no regular file"},
                                  {"link to itself", is_link_to_itself("text.txt"), "text.txt: " + loop}});
  expect_refused({kRunTxt},
                 {{"missing", is_missing("text.txt"), in_run},
                  {"folder", is_folder("text.txt"), "text.txt: a folder without prepared tokens (.safetensors)"},
                  {"link to itself", is_link_to_itself("text.txt"), in_run + ": Too many levels of symbolic links"}});
  expect_refused({"evaluate", "m", "--data", "m"}, "m: text comes in .jsonl or .txt files");
}

// --- the search config ---

TEST_F(BadInput, Yaml) {
  const auto also = [](const std::string& more) { return text_is("c.yaml", kSearch + more); };
  const auto instead = [](std::string_view from, const std::string& to) {
    return [=] { change_text("c.yaml", [&](std::string& text) { text.replace(text.find(from), from.size(), to); }); };
  };
  std::string bomb = "a: &a [x, x]\n";
  for (char c = 'b'; c < 'z'; ++c) bomb += fmt::format("{0}: &{0} [*{1}, *{1}, *{1}]\n", c, char(c - 1));
  expect_refused(
      {kRun},
      {{"missing", is_missing("c.yaml"), "c.yaml: cannot be read: No such file or directory"},
       {"folder", is_folder("c.yaml"), "c.yaml: cannot be read: Is a directory"},
       {"link to itself", is_link_to_itself("c.yaml"), "c.yaml: cannot be read: Too many levels of symbolic links"},
       {"empty", text_is("c.yaml", ""), "c.yaml: found nothing; allowed: a map, such as key: value"},
       {"too large", also(std::string(200'000, '#')), "c.yaml: larger than the 131072 bytes that are allowed"},
       {"unknown key", also("sead: 1\n"), "c.yaml:8:1: no key 'sead'; did you mean 'seed'? known: " + kKeys},
       {"a key twice", also("threads: 2\n"), "c.yaml:8:1: key 'threads' again; it stands at c.yaml:7:1 already"},
       {"alias bomb", also(bomb), "c.yaml:8:4: anchor '&a'; anchors and aliases are not allowed, repeat the value"},
       {"alias of nothing", also("seed: *a\n"), "c.yaml:8:7: …"},
       {"nested deep", also("seed: " + std::string(10'000, '[') + std::string(10'000, ']')),
        "c.yaml:8:38: nested more than 32 deep"},
       {"out of range", also("seed: -1\n"),
        "c.yaml:8:7: seed: found '-1'; allowed: an integer from 0 to 9007199254740992, such as 1024 or 1e9"},
       {"far out of range", also("distill: {tokens: 1e99}\n"),
        "c.yaml:8:19: distill.tokens: found '1e99'; allowed: an integer from 1 to 1000000000000000, such as 1024 or "
        "1e9"},
       {"no double", also("distill: {learning_rate: 1e999}\n"),
        "c.yaml:8:26: distill.learning_rate: found '1e999'; allowed: a number above 0 and at most 1, such as 0.5 or "
        "1e-4"},
       {"NaN", also("distill: {learning_rate: .nan}\n"),
        "c.yaml:8:26: distill.learning_rate: found '.nan'; allowed: a number above 0 and at most 1, such as 0.5 or "
        "1e-4"},
       {"negative limit", instead("90%", "-1"),
        "c.yaml:5:23: constraints.memory: found '-1'; allowed: bytes such as 60 GiB, or a part of the teacher's, such "
        "as 60% or 2.0x"},
       {"not closed", also("seed: [1\n"), "c.yaml:9:1: …"},
       {"not UTF-8", also("s\xFF: 1\n"), "c.yaml:8:1: no key 's\\xFF'; known: " + kKeys},
       {"a key that steers the terminal", also("\"a\\e[2J\\nb\": 1\n"),
        "c.yaml:8:1: no key 'a\\x1B[2J\\x0Ab'; known: " + kKeys},
       {"a teacher that is not there", instead("teacher: m", "teacher: none"),
        "c.yaml:1:10: teacher: no file or folder 'none'"},
       {"a teacher that is a file", instead("teacher: m", "teacher: ids"),
        "ids/config.json: cannot be read: Not a directory"},
       {"an unknown variant", instead("ffn: [no_op]", "ffn: [no_opp]"), "c.yaml:3:42: " + kNoVariant},
       {"an unknown variant of a teacher to train", text_is("c.yaml", kPretrain), "c.yaml:4:22: " + kNoVariant}});
  expect_refused({"run", "c.yaml", "--set", "distil.tokens=1"},
                 "--set distil.tokens=1: no key 'distil'; did you mean 'distill'? known: " + kKeys);
  expect_refused({"run", "c.yaml", "--run-dir", "ids"}, "ids: Not a directory");
  expect_refused({"run", "c.yaml", "--run-dir", "model"},
                 "model: this folder is not empty and no run directory (it has no run.json); give another --run-dir");
}

TEST_F(BadInput, TextShorterThanABatch) {
  const Outcome outcome = call({"run", "c.yaml", "--quiet", "--set", "distill.batch_tokens=64"});
  EXPECT_EQ(outcome.err,
            "tangram: r/tokens/train/tokens-00000.safetensors: 24 tokens are fewer than one batch of 64; "
            "give more text or smaller batches\n");
  EXPECT_EQ(outcome.code, 2);
}

// Where root runs the test, which may read everything, it looks as somebody else.
TEST_F(BadInput, FilesThatMayNotBeRead) {
  fs::permissions(".", fs::perms::all);
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(".")) fs::permissions(entry, fs::perms::all);
  const uid_t own = geteuid();
  const std::vector<std::pair<const char*, Arguments>> cases{
      {kConfig, kGenerate},      {kWeights, kGenerate},      {kTokenizer, kGenerate}, {"ids", kLogits},
      {"text.jsonl", kEvaluate}, {"text.txt", kEvaluateTxt}, {"c.yaml", kRun},        {kTokenizer, kRun}};
  for (const auto& [path, arguments] : cases) {
    fs::permissions(path, fs::perms::none);
    if (own == 0 && seteuid(65534) != 0) GTEST_SKIP() << "root cannot be somebody else here";
    const Outcome outcome = call(arguments);
    ASSERT_EQ(seteuid(own), 0);
    fs::permissions(path, fs::perms::all);
    EXPECT_EQ(outcome.err, fmt::format("tangram: {}: cannot be read: Permission denied\n", path));
    EXPECT_EQ(outcome.code, 2);
  }
}

TEST_F(BadInput, MendedInputRunsInTheSameRunDirectory) {
  const auto prepare = [] { return call({"prepare", "c.yaml", "--quiet"}).code; };
  for (const char* damaged : {kTokenizer, kWeights, kConfig, "text.jsonl", "text.txt"}) {
    SCOPED_TRACE(damaged);
    const std::string good = read_text_file(damaged, 1 << 20);
    write_text(damaged, "\xFF");
    EXPECT_EQ(prepare(), 2);
    write_text(damaged, good);
    EXPECT_EQ(prepare(), 0);
    fs::remove_all("r");
  }
}

}  // namespace
}  // namespace tangram
