// Damaged model folders through the command line: each kind of damage, with the message that names the file and what is
// wrong. Oracle: the messages, written out.

#include "blocks/safetensors.h"
#include "tests/nas/bad_input.h"

namespace tangram {
namespace {

using BadModel = BadInput;

TEST_F(BadModel, DamagedWeights) {
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
TEST_F(BadModel, DamagedWeightsWhereverTheyAreRead) {
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

TEST_F(BadModel, ShardsAndIndexThatDisagree) {
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

TEST_F(BadModel, ConfigJsonThatIsDamagedOrDisagreesWithTheTensors) {
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

TEST_F(BadModel, DamagedTokenizer) {
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

}  // namespace
}  // namespace tangram
