// Bad prompts, texts, paths and configs through the command line, with the message that names the file and what is
// wrong. Oracle: the messages, written out.

#include "tests/nas/bad_input.h"

#include <unistd.h>

namespace tangram {
namespace {

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

TEST_F(BadInput, Prompts) {
  const std::string no_replacement =
      "the prompt: byte 2: the vocabulary has no '\uFFFD' (U+FFFD), and there is no unk_token";
  expect_refused({"generate", "m", "ab\xFF"}, no_replacement);
  expect_refused({"generate", "m", "ab\xE2\x82", "--json"}, no_replacement);
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
  expect_refused({"run", "c.yaml", "--set", "search_space.ffn=[no_op]", "--run-dir", "ids"}, "ids: Not a directory");
  expect_refused({"run", "c.yaml", "--set", "search_space.ffn=[no_op]", "--run-dir", "model"},
                 "model: this folder is not empty and no run directory (it has no run.json); give another --run-dir");
}

TEST_F(BadInput, TextShorterThanABatch) {
  const Outcome outcome =
      call({"run", "c.yaml", "--quiet", "--set", "distill.batch_tokens=64", "--set", "search_space.ffn=[linear]"});
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
