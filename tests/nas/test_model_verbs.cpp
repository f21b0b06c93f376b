#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "blocks/checkpoint.h"
#include "blocks/safetensors.h"
#include "nas/architecture_file.h"
#include "nas/run_directory.h"
#include "puzzle/score_table.h"
#include "tests/blocks/folder.h"
#include "tests/nas/command_line.h"
#include "tests/nas/letters.h"
#include "tests/own_sequences.h"
#include "tests/small_model.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

Model random_model(const ModelConfig& config, const Architecture& architecture, uint64_t seed) {
  Model model = make_model(config, architecture, DType::f32);
  fill_random(model, seed);
  return model;
}

Outcome call(const std::vector<std::string>& arguments) { return call_with(arguments, {}, all_model_verbs()); }

json call_json(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--json", "--threads", "2"});
  const Outcome outcome = call(arguments);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  return outcome.code == 0 ? json::parse(outcome.out) : json();
}

class ModelVerbsTest : public testing::Test {
 protected:
  ModelVerbsTest() { save(model, "model"); }

  std::string save(const Model& m, const std::string& name) {
    save_model(folder.path / name, m);
    write_text(folder.path / name / "tokenizer.json", letters_tokenizer());
    return folder.path / name;
  }
  std::string path(const std::string& name) const { return folder.path / name; }

  // Logits of one sequence in f64 from the hidden states of a whole forward pass.
  std::vector<std::vector<double>> logits_of(const Model& m, const std::vector<int32_t>& ids) {
    const OwnSequences batch(m.config, std::vector<int32_t>{int32_t(ids.size())});
    ArenaScope scope(ctx.scratch);
    const Tensor hidden = ctx.scratch.tensor(batch.tokens(), m.config.hidden_size, m.dtype);
    model_hidden(hidden, m, ids, batch.view(), ctx);
    std::vector<std::vector<double>> logits(ids.size(), std::vector<double>(size_t(m.config.vocab_size), 0));
    for (size_t n = 0; n < ids.size(); ++n)
      for (size_t v = 0; v < logits[n].size(); ++v)
        for (int64_t h = 0; h < hidden.cols; ++h)
          logits[n][v] += double(hidden.row<float>(int64_t(n))[h]) * double(m.head.values.row<float>(int64_t(v))[h]);
    return logits;
  }

  TestFolder folder;
  Model model = small_teacher();
  Context ctx{Context::Options{.threads = 2}};
};

std::vector<double> log_softmax(const std::vector<double>& logits) {
  double sum = 0;
  for (double l : logits) sum += std::exp(l);
  std::vector<double> result;
  for (double l : logits) result.push_back(l - std::log(sum));
  return result;
}

// --- logits ---

TEST_F(ModelVerbsTest, LogitsAreThoseOfAWholeForwardPass) {
  // One long sequence in several parts, and many short ones in several groups.
  for (const auto& [S, T] : {std::pair<int64_t, int64_t>{1, 600}, {60, 9}, {3, 1}}) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < S * T; ++i) ids.push_back(int32_t(random_below(23, 1, 0, uint64_t(i))));
    write_safetensors(path("ids"), std::vector<NamedTensor>{{"input_ids", view_of(ids.data(), S, T)}});
    const json result = call_json({"logits", path("model"), "--tokens", path("ids"), "--output", path("out")});
    const SafeTensors out = read_safetensors(path("out"));
    const Tensor logits = out.at("logits", S * T, 23);
    double loss = 0;
    for (int64_t s = 0; s < S; ++s) {
      const std::vector<int32_t> sequence(ids.begin() + s * T, ids.begin() + (s + 1) * T);
      const auto expected = logits_of(model, sequence);
      for (int64_t t = 0; t < T; ++t) {
        for (int64_t v = 0; v < 23; ++v)
          ASSERT_NEAR(logits.row<float>(s * T + t)[v], expected[size_t(t)][size_t(v)], 1e-4) << s << " " << t;
        if (t + 1 < T) loss -= log_softmax(expected[size_t(t)])[size_t(sequence[size_t(t) + 1])];
      }
    }
    EXPECT_EQ(result.at("tokens"), S * T);
    EXPECT_FALSE(result.contains("max_difference"));
    if (T > 1) {
      EXPECT_NEAR(result.at("loss").get<double>(), loss / double(S * (T - 1)), 1e-5);
    } else {
      EXPECT_TRUE(result.at("loss").is_null());
    }
  }
}

TEST_F(ModelVerbsTest, LogitsAreComparedWithThoseInTheFile) {
  std::vector<int32_t> ids{3, 1, 4, 1, 5, 9};  // two sequences
  write_safetensors(path("ids"), std::vector<NamedTensor>{{"input_ids", view_of(ids.data(), 2, 3)}});
  call({"logits", path("model"), "--tokens", path("ids"), "--output", path("out")});
  const SafeTensors out = read_safetensors(path("out"));
  std::vector<float> changed(6 * 23);
  copy(view_of(changed.data(), 6, 23), out.at("logits", 6, 23));
  changed[4 * 23 + 7] -= 0.5f;
  write_safetensors(path("ids"), std::vector<NamedTensor>{{"input_ids", view_of(ids.data(), 2, 3)},
                                                          {"logits", view_of(changed.data(), 6, 23)}});
  const std::vector<std::string> command{"logits", path("model"), "--tokens", path("ids"), "--output", path("out")};
  EXPECT_NEAR(call_json(command).at("max_difference").get<double>(), 0.5, 1e-5);
  EXPECT_THAT(call(command).out, HasSubstr("largest difference to the logits of " + path("ids") + ": 5.00e-01\n"));
}

TEST_F(ModelVerbsTest, LogitsRefuseBadTokens) {
  const auto message = [&](const NamedTensor& tensor) {
    write_safetensors(path("ids"), std::vector<NamedTensor>{tensor});
    const Outcome outcome = call({"logits", path("model"), "--tokens", path("ids"), "--output", path("out")});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_FALSE(fs::exists(path("out")));
    return outcome.err;
  };
  std::vector<int32_t> ids{3, 23};
  std::vector<int64_t> wide{3};
  EXPECT_THAT(message({"input_ids", view_of(ids.data(), 1, 2)}),
              HasSubstr("'input_ids' has 23 at place 1; the model's vocabulary has 23"));
  EXPECT_THAT(message({"input_ids", view_of(wide.data(), 1, 1)}), HasSubstr("'input_ids' is i64; allowed: i32"));
  EXPECT_THAT(message({"ids", view_of(ids.data(), 1, 2)}), HasSubstr("no tensor 'input_ids'"));
  EXPECT_THAT(message({"input_ids", view_of(ids.data(), 1, 0)}), HasSubstr("has 0 ids"));
}

// What the issue asks for, on a model that this project did not make.
TEST_F(ModelVerbsTest, LogitsOfARealModelAreTheReference) {
  const std::string real = test_data() / "stories260k";
  if (!fs::exists(real)) GTEST_SKIP() << real << " is not there; TANGRAM_TEST_DATA names the folder of test data";
  const json result = call_json({"logits", real, "--tokens", real + "/reference.safetensors", "--output", path("out")});
  EXPECT_LE(result.at("max_difference").get<double>(), 1e-4);
  EXPECT_NEAR(result.at("loss").get<double>(), 1.13498, 1e-5);
  EXPECT_THAT(call({"logits", real, "--tokens", real + "/reference.safetensors", "--output", path("out")}).out,
              StartsWith("next-token loss: 1.13"));
}

// --- generate ---

TEST_F(ModelVerbsTest, GenerateContinuesThePrompt) {
  const std::vector<std::string> command{"generate", path("model"), "abc", "--max-tokens", "20", "--threads", "2"};
  const Outcome plain = call(command);
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out.size(), 3 + 20 + 1u);
  EXPECT_THAT(plain.out, StartsWith("abc"));
  EXPECT_THAT(plain.err, StartsWith("prompt: 3 tokens, "));
  EXPECT_EQ(call(command).out, plain.out);
  const json result = call_json({"generate", path("model"), "abc", "--max-tokens", "20"});
  EXPECT_EQ("abc" + result.at("text").get<std::string>() + "\n", plain.out);
  EXPECT_EQ(result.at("output_tokens"), 20);
  EXPECT_NE(call({"generate", path("model"), "abc", "--max-tokens", "20", "--seed", "7"}).out, plain.out);
}

TEST_F(ModelVerbsTest, GenerateStopsAtTheEndOfText) {
  const std::vector<std::string> options{"--max-tokens", "40", "--temperature", "0"};
  const auto text_of = [&](const std::string& name, bool ignore_eos) {
    std::vector<std::string> command{"generate", path(name), "abc"};
    command.insert(command.end(), options.begin(), options.end());
    if (ignore_eos) command.push_back("--ignore-eos");
    return call_json(command).at("text").get<std::string>();
  };
  const std::string whole = text_of("model", false);
  Model ending = model;
  ending.config.eos_token_ids = {whole[2] - 'a'};
  save(ending, "ending");
  EXPECT_EQ(text_of("ending", false), whole.substr(0, whole.find(whole[2])));
  EXPECT_EQ(text_of("ending", true), whole);
}

TEST_F(ModelVerbsTest, GenerateRefusesBadInput) {
  EXPECT_THAT(call({"generate", path("model"), "abz"}).err, HasSubstr("tangram: "));
  const Outcome bad = call({"generate", path("model"), "abc", "--top-p", "2"});
  EXPECT_EQ(bad.code, 2);
  EXPECT_EQ(bad.out, "");
  EXPECT_EQ(call({"generate", path("model"), "abc", "--max-tokens", "0"}).code, 2);
  EXPECT_EQ(call({"generate", path("model"), ""}).code, 2);
  EXPECT_EQ(call({"generate", path("none"), "abc"}).code, 2);
  fs::remove(path("model/tokenizer.json"));
  EXPECT_THAT(call({"generate", path("model"), "abc"}).err, HasSubstr("tokenizer.json"));
}

TEST_F(ModelVerbsTest, GenerateWritesAStory) {
  const std::string real = test_data() / "stories260k";
  if (!fs::exists(real)) GTEST_SKIP() << real << " is not there; TANGRAM_TEST_DATA names the folder of test data";
  const Outcome outcome = call({"generate", real, "Once upon a time", "--temperature", "0", "--max-tokens", "60"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, StartsWith("Once upon a time, there was a little girl named Lily."));
}

// --- evaluate ---

TEST_F(ModelVerbsTest, EvaluateMeasuresLossAndDistanceToATeacher) {
  constexpr int64_t kDocuments = 5, T = 12;
  write_text(path("text.jsonl"), letters_jsonl(kDocuments, T));
  const Model student = random_model(model.config, model.architecture(), 4);
  save(student, "student");
  const json result = call_json({"evaluate", path("student"), "--data", path("text.jsonl"), "--teacher", path("model"),
                                 "--sequence-length", std::to_string(T)});
  std::vector<double> losses, kls;
  double agree = 0;
  for (int64_t d = 0; d < kDocuments; ++d) {
    std::vector<int32_t> ids;
    for (char c : letters(T + 1, uint64_t(d))) ids.push_back(c - 'a');
    const std::vector<int32_t> inputs(ids.begin(), ids.end() - 1);
    const auto student_logits = logits_of(student, inputs), teacher_logits = logits_of(model, inputs);
    double loss = 0, kl = 0;
    for (size_t t = 0; t < inputs.size(); ++t) {
      const std::vector<double> p = log_softmax(teacher_logits[t]), q = log_softmax(student_logits[t]);
      loss -= q[size_t(ids[t + 1])] / double(T);
      for (size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]) / double(T);
      agree += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    }
    losses.push_back(loss), kls.push_back(kl);
  }
  const auto expect = [&](const std::string& name, const std::vector<double>& values) {
    double mean = 0, squares = 0;
    for (double v : values) mean += v / kDocuments;
    for (double v : values) squares += (v - mean) * (v - mean);
    EXPECT_NEAR(result.at(name).at("mean").get<double>(), mean, 1e-5 * mean) << name;
    EXPECT_NEAR(result.at(name).at("standard_error").get<double>(), std::sqrt(squares / (kDocuments - 1) / kDocuments),
                1e-5 * mean)
        << name;
    return mean;
  };
  const double loss = expect("loss", losses);
  expect("kl_divergence", kls);
  const auto perplexity = result.at("perplexity");
  EXPECT_NEAR(perplexity.at("mean").get<double>(), std::exp(loss), 1e-4 * std::exp(loss));
  // d exp(x) = exp(x) dx
  EXPECT_NEAR(perplexity.at("standard_error").get<double>(),
              std::exp(loss) * result.at("loss").at("standard_error").get<double>(), 1e-4 * std::exp(loss));
  EXPECT_NEAR(result.at("top_1").at("mean").get<double>(), agree / double(kDocuments * T), 1e-9);
  EXPECT_EQ(result.at("sequences"), kDocuments);

  const json alone =
      call_json({"evaluate", path("student"), "--data", path("text.jsonl"), "--sequence-length", std::to_string(T)});
  EXPECT_EQ(alone.at("loss"), result.at("loss"));
  EXPECT_FALSE(alone.contains("kl_divergence"));
  const json less = call_json({"evaluate", path("student"), "--data", path("text.jsonl"), "--sequence-length",
                               std::to_string(T), "--tokens", "36"});
  EXPECT_EQ(less.at("tokens"), 36);
}

TEST_F(ModelVerbsTest, EvaluateBesideItselfFindsNoDistance) {
  write_text(path("text.jsonl"), letters_jsonl(3, 20));
  const Outcome outcome = call(
      {"evaluate", path("model"), "--data", path("text.jsonl"), "--teacher", path("model"), "--sequence-length", "20"});
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, testing::ContainsRegex("kl_divergence +0.00000"));
  EXPECT_THAT(outcome.out, testing::ContainsRegex("top_1 +1.00000"));
}

TEST_F(ModelVerbsTest, EvaluateRefusesAnotherVocabulary) {
  write_text(path("text.jsonl"), letters_jsonl(3, 20));
  ModelConfig larger = model.config;
  larger.vocab_size = 24;
  save(random_model(larger, model.architecture(), 3), "larger");
  const auto message = [&](const std::string& teacher) {
    const Outcome outcome = call({"evaluate", path("model"), "--data", path("text.jsonl"), "--teacher", path(teacher)});
    EXPECT_EQ(outcome.code, 2);
    return outcome.err;
  };
  EXPECT_THAT(message("larger"), HasSubstr("has a vocabulary of 23"));
  save(model, "renamed");
  std::string tokenizer = letters_tokenizer();
  std::swap(tokenizer[tokenizer.find("\"c\"") + 1], tokenizer[tokenizer.find("\"d\"") + 1]);
  write_text(path("renamed/tokenizer.json"), tokenizer);
  EXPECT_THAT(message("renamed"), HasSubstr("differ from token 2 on"));
  EXPECT_EQ(call({"evaluate", path("model"), "--data", path("none.jsonl")}).code, 2);
  EXPECT_THAT(call({"evaluate", path("model"), "--data", path("text.jsonl"), "--sequence-length", "61"}).err,
              HasSubstr("too short for one sequence of 61 tokens"));
}

// --- bench ---

// The work behind the rates, counted by hand.
TEST_F(ModelVerbsTest, BenchCountsTheWork) {
  constexpr double B = 2, T = 6, out = 1, H = 32, I = 48, D = 8, heads = 4, kv_heads = 2, layers = 3, V = 23;
  const json result =
      call_json({"bench", path("model"), "--batch", "2", "--prompt-tokens", "6", "--output-tokens", "1"});
  const double matrices = layers * (2 * H * heads * D + 2 * H * kv_heads * D + 3 * H * I);
  const double attention = layers * 4 * heads * D * (1 + 2 + 3 + 4 + 5 + 6);
  const double flops = B * (2 * T * matrices + attention + 2 * V * H);
  const json& prefill = result.at("prefill");
  EXPECT_NEAR(prefill.at("rate").get<double>() * 1e9 / prefill.at("tokens_per_s").get<double>() * B * T, flops,
              1e-6 * flops);
  // A step reads matrices, norms and head once, two rows of the embedding, and the keys and values of all tokens so
  // far.
  double bytes = 0;
  for (double context = T + 2; context <= T + 1 + out; ++context)
    bytes += 4 * (matrices + (2 * layers + 1) * H + V * H + B * H + B * context * layers * 2 * kv_heads * D);
  const json& decode = result.at("decode");
  EXPECT_NEAR(decode.at("rate").get<double>() * 1e9 / decode.at("tokens_per_s").get<double>() * B * out, bytes,
              1e-6 * bytes);
  EXPECT_GT(decode.at("bound").get<double>(), 0);
  EXPECT_EQ(call({"bench", path("model"), "--batch", "1e6", "--prompt-tokens", "1e6"}).code, 2);
}

TEST_F(ModelVerbsTest, BenchOfRandomWeightsNeedsOnlyTheConfig) {
  fs::remove(folder.path / "model/model.safetensors");
  const std::vector<std::string> bench = {"bench", path("model"), "--prompt-tokens", "6", "--output-tokens", "2"};
  EXPECT_EQ(call(bench).code, 2);
  std::vector<std::string> untrained = bench;
  untrained.insert(untrained.end(), {"--untrained", "--dtype", "bf16"});
  const json result = call_json(untrained);
  EXPECT_EQ(result.at("dtype"), "bf16");
  EXPECT_GT(result.at("prefill").at("rate").get<double>(), 0);
}

// --- inspect ---

Model irregular_model(const ModelConfig& config) {
  const auto block = [&](const char* attention, const char* ffn) {
    return BlockChoice{parse_choice(Subblock::attention, attention, config), parse_choice(Subblock::ffn, ffn, config)};
  };
  return random_model(config, {block("gqa_1", "no_op"), block("gqa_1", "no_op"), block("no_op", "ffn_48")}, 3);
}

TEST_F(ModelVerbsTest, InspectShowsTheBlocksOfAModel) {
  const Model irregular = irregular_model(model.config);
  const std::string folder_name = save(irregular, "irregular");
  const std::string text = call({"inspect", folder_name}).out;
  EXPECT_THAT(text, testing::ContainsRegex("\n +0-1 +gqa_1 +no_op +2.59k +64 B\n +2 +no_op +ffn_48 +4.64k +0 B\n"));
  const json result = call_json({"inspect", folder_name});
  int64_t parameters = 0;
  for (const NamedTensor& t : named_tensors(irregular)) parameters += t.tensor.size();
  EXPECT_EQ(result.at("parameters"), parameters);
  EXPECT_EQ(result.at("bytes"), 4 * parameters);
  EXPECT_EQ(result.at("kv_bytes_per_token"), 2 * 2 * 8 * 4);
  EXPECT_EQ(result.at("blocks").at(2).at("attention"), "no_op");
}

TEST_F(ModelVerbsTest, InspectShowsScoresBestFirst) {
  ScoreTable table{.layer_count = 5};
  const size_t kl = add_metric(table, {"kl_divergence", "nats", false, 0});
  const size_t top = add_metric(table, {"top_1", "1", true, 0.75});
  for (int64_t l = 0; l < 5; ++l) {
    row_of(table, l, 1, "gqa_2", "").teacher = true;
    row_of(table, l, 1, "linear", "").values = {l == 3 ? 2.0 : 0.125, 0.5};
    row_of(table, l, 1, "gqa_1", "").values = {0.0625, l == 0 ? 0.25 : 0.625};
    row_of(table, l, 1, "", "no_op").values = {0.5, kMissing};
    for (TableRow& row : table.rows) row.standard_errors = {0.001, 0.002};
  }
  row_of(table, 1, 1, "no_op", "ffn_48").values[kl] = 0.75;
  ASSERT_EQ(table.rows[0].values.size(), top + 1);
  write_scores(table, path("scores.h5"));
  const std::string text = call({"inspect", path("scores.h5")}).out;
  EXPECT_THAT(text, testing::ContainsRegex("layer +gqa_2 +gqa_1 +linear\n"));
  EXPECT_THAT(text, testing::ContainsRegex("\n +3 +0.00000 +0.06250 +2.00000\\*\n"));
  EXPECT_THAT(text, testing::ContainsRegex("\n +2 +0.00000 +0.06250 +0.12500\n"));
  EXPECT_THAT(text, testing::ContainsRegex("layer +no_op\\+ffn_48\n-+\n +1 +0.75000\n"));
  EXPECT_THAT(text, HasSubstr("* far worse than"));
  const json by_top = call_json({"inspect", path("scores.h5"), "--metric", "top_1"});
  int outliers = 0;
  for (const json& r : by_top.at("replacements")) {
    outliers += r.at("outlier") == true;
    if (r.at("attention") == "gqa_1" && r.at("first_layer") == 0) {
      EXPECT_EQ(r.at("loss"), 0.5);  // more is worse, though more agreement is better
      EXPECT_EQ(r.at("outlier"), true);
    }
    if (r.at("ffn") == "no_op") {
      EXPECT_TRUE(r.at("loss").is_null());
    }
  }
  EXPECT_EQ(outliers, 1);
  EXPECT_THAT(call({"inspect", path("scores.h5"), "--metric", "top"}).err, HasSubstr("top_1"));
}

TEST_F(ModelVerbsTest, InspectShowsTheStagesAndStudentsOfARun) {
  const fs::path run = folder.path / "run";
  {
    RunDirectory directory(run, "digest");
    directory.begin("prepare", "inputs");
    directory.complete("prepare", "inputs", {});
    directory.begin("distill", "inputs");
  }
  write_text(path("text.jsonl"), letters_jsonl(1, 4));
  write_text(run / "config.yaml", "teacher: ../model\ndata: {train: [../text.jsonl], validation: [../text.jsonl]}\n");
  const Outcome early = call({"inspect", run});
  EXPECT_THAT(early.out,
              testing::ContainsRegex("-\nprepare +complete\ndistill +not complete yet\nscore +not run yet\n"));

  ChosenArchitecture chosen{.name = "half",
                            .target = "half",
                            .method = "mip",
                            .objective = "kl_divergence",
                            .proven = true,
                            .predicted = {{"chat.memory", 2048}, {"kl_divergence", 0.25}},
                            .blocks = {}};
  for (const BlockChoice& block : irregular_model(model.config).architecture())
    chosen.blocks.push_back({.attention = block.attention.name(), .ffn = block.ffn.name()});
  write_architecture(run / "architectures/half.yaml", chosen);
  const Outcome late = call({"inspect", run});
  EXPECT_EQ(late.code, 0) << late.err;
  EXPECT_THAT(late.out, testing::ContainsRegex("half +mip +kl_divergence +yes +2 KiB +0.25000\n"));
  EXPECT_THAT(late.out, testing::ContainsRegex("\n +0-1 +gqa_1 +no_op +as the sum of its parts\n +2 +no_op +ffn_48 +as the sum of its parts\n"));
  const json result = call_json({"inspect", run});
  EXPECT_EQ(result.at("stages").at("distill"), "not complete yet");
  EXPECT_EQ(result.at("architectures").at(0).at("blocks").at(2).at("ffn"), "ffn_48");
}

TEST_F(ModelVerbsTest, InspectRefusesOtherPaths) {
  fs::create_directories(path("empty"));
  for (const std::string& name : {path("none"), path("empty"), path("model/tokenizer.json")}) {
    const Outcome outcome = call({"inspect", name});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_THAT(outcome.err, StartsWith("tangram: " + name + ": "));
  }
}

TEST_F(ModelVerbsTest, EveryVerbHasAnExample) {
  for (const ModelVerb& verb : all_model_verbs()) {
    const Outcome help = call({std::string(verb.name), "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, HasSubstr(fmt::format("Example:\n  tangram {}", verb.name)));
  }
}

}  // namespace
}  // namespace tangram
