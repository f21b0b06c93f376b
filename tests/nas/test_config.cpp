#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "nas/config.h"

namespace tangram {
namespace {

using testing::HasSubstr;

constexpr const char* kWhole = R"(teacher: models/llama
data:
  train: [data/a.jsonl, /abs/b.txt]
  validation: [data/v.jsonl]
  sequence_length: 128
search_space:
  attention: [gqa_1, linear, no_op]
  ffn: [1.0, 0.5, linear]
  pairs: [{attention: no_op, ffn: 1.0}]
distill: {tokens: 1e6, batch_tokens: 2048, learning_rate: 2e-3, warmup: 10%, decay_start: 50%, init: prune, target: block}
score: {tokens: 8192, objective: lm_loss}
scenarios:
  chat: {input_tokens: 128, output_tokens: 64, concurrency: 8, precision: f32}
  batch: {input_tokens: 1, output_tokens: 1, concurrency: 1}
constraints:
  - {name: m60, memory: 60%, throughput: {chat: 2.0x}}
  - {name: m40, memory: 40 GiB, parameters: 4e9, latency: {batch: 30 ms}}
solutions: {count: 3, min_difference: 20%}
baselines: {random: 10, greedy: false, objectives: [lm_loss]}
uptrain: {tokens: 4096, batch_tokens: 1024, micro_batches: 2, dtype: bf16, loss: {cosine: 1, kl: 0.5, lm: 0}}
export: []
seed: 7
threads: 2
checkpoint: 2 min
)";

SearchConfig parse(const std::string& text, std::vector<std::string> overrides = {}) {
  return parse_config(text, "x.yaml", "/base", overrides);
}

/// The message of the Error that a config throws.
std::string message_of(const std::string& text, std::vector<std::string> overrides = {}) {
  try {
    parse(text, std::move(overrides));
  } catch (const Error& e) {
    EXPECT_EQ(e.failure, Failure::bad_input);
    return e.what();
  }
  return "no error";
}

/// kWhole with the first `from` replaced.
std::string changed(const std::string& from, const std::string& to) {
  std::string text = kWhole;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Config, ReadsEverySection) {
  const SearchConfig c = parse(kWhole);
  EXPECT_EQ(c.teacher.folder, "/base/models/llama");
  EXPECT_EQ(c.data.train, (std::vector<std::filesystem::path>{"/base/data/a.jsonl", "/abs/b.txt"}));
  EXPECT_EQ(c.search_space.ffn, (std::vector<std::string>{"1.0", "0.5", "linear"}));
  EXPECT_EQ(c.search_space.pairs.at(0).attention, "no_op");
  EXPECT_EQ(c.distill.training.tokens, 1'000'000);
  EXPECT_EQ(c.distill.training.learning_rate, 2e-3);
  EXPECT_EQ(c.distill.training.warmup, 0.1);
  EXPECT_EQ(c.distill.init, Init::prune);
  EXPECT_EQ(c.distill.target, BldTarget::block);
  EXPECT_EQ(c.score.objective, Metric::lm_loss);
  ASSERT_EQ(c.scenarios.size(), 2u);
  EXPECT_EQ(scenarios_of(c)[0], (Scenario{"chat", 128, 64, 8, Precision::f32}));
  ASSERT_EQ(c.constraints.size(), 2u);
  EXPECT_EQ(c.constraints[0].of(Quantity::memory).at(""), (Limit{0.6, true}));
  EXPECT_EQ(c.constraints[0].of(Quantity::throughput).at("chat"), (Limit{2, true}));
  EXPECT_EQ(c.constraints[1].of(Quantity::memory).at(""), (Limit{40 * 0x1p30, false}));
  EXPECT_EQ(c.constraints[1].of(Quantity::latency).at("batch"), (Limit{0.03, false}));
  EXPECT_EQ(c.solutions.min_difference, 0.2);
  EXPECT_EQ(c.baselines.objectives, std::vector<Metric>{Metric::lm_loss});
  EXPECT_FALSE(c.baselines.greedy);
  EXPECT_EQ(c.uptrain.loss.kl, 0.5);
  EXPECT_EQ(c.uptrain.training.dtype, DType::bf16);
  EXPECT_TRUE(c.exports.empty());
  EXPECT_EQ(c.seed, 7u);
  EXPECT_EQ(c.checkpoint_seconds, 120);
}

TEST(Config, ReadsWhichFrontierIsKept) {
  EXPECT_EQ(parse(kWhole).solutions.frontier, "");
  const auto with = [](const std::string& keys) { return changed("solutions: {", "solutions: {" + keys + ", "); };
  const SearchConfig c = parse(with("frontier: chat.memory, points: 20"));
  EXPECT_EQ(c.solutions.frontier, "chat.memory");
  EXPECT_EQ(c.solutions.points, 20);
  EXPECT_EQ(parse(with("frontier: parameters")).solutions.points, 100);
  const auto refused = [&](const std::string& keys) { return message_of(with(keys)); };
  EXPECT_THAT(refused("frontier: chat.memry"),
              HasSubstr("solutions.frontier: no quantity 'memry'; did you mean 'memory'?"));
  EXPECT_THAT(refused("frontier: chta.memory"), HasSubstr("no scenario 'chta'; did you mean 'chat'?"));
  EXPECT_THAT(refused("frontier: memory"),
              HasSubstr("memory has 2 scenarios to be counted for; say which, such as chat.memory"));
  EXPECT_THAT(refused("frontier: chat.memory=3"), HasSubstr("write the quantity alone"));
  EXPECT_THAT(refused("points: 20"), HasSubstr("solutions.points: is of a frontier; say over which quantity"));
  EXPECT_THAT(refused("fronteer: memory"), HasSubstr("frontier"));
}

TEST(Config, ReadsScenariosOfManyKinds) {
  const std::string text = changed("  batch: {input_tokens: 1, output_tokens: 1, concurrency: 1}",
                                   "  batch: {input_tokens: 1, output_tokens: 1, concurrency: [1, 64], precision: fp8, "
                                   "kv_precision: bf16, tensor_parallel: 4}");
  const SearchConfig c = parse(text);
  const std::vector<Scenario> scenarios = scenarios_of(c);
  ASSERT_EQ(scenarios.size(), 3u);
  EXPECT_EQ(scenarios[0].name, "chat");
  EXPECT_EQ(scenarios[0].kv_precision(), Precision::f32) << "precision sets both";
  EXPECT_EQ(scenarios[0].tensor_parallel, 1);
  EXPECT_EQ(scenarios[1], (Scenario{"batch@1", 1, 1, 1, Precision::fp8, Precision::bf16, 4}));
  EXPECT_EQ(scenarios[2], (Scenario{"batch@64", 1, 1, 64, Precision::fp8, Precision::bf16, 4}));
  EXPECT_EQ(scenarios[2].group(), "batch");
  const std::string written = write_config(c, "/base/runs/x");
  EXPECT_THAT(written, HasSubstr("concurrency: [1, 64]\n    precision: fp8\n    kv_precision: bf16\n"));
  EXPECT_EQ(write_config(parse_config(written, "y.yaml", "/base/runs/x"), "/base/runs/x"), written);
}

TEST(Config, ReadsLimitsOnEveryQuantity) {
  const SearchConfig c = parse(changed(
      "memory: 60%, throughput: {chat: 2.0x}",
      "memory: {chat: 60%}, throughput: 2.0x, kv_cache: 4 GiB, time_to_first_token: {chat: 200 ms, batch: 50%}, "
      "time_per_output_token: 20 ms"));
  EXPECT_EQ(c.constraints[0].of(Quantity::memory).at("chat"), (Limit{0.6, true}));
  const std::vector<Constraint> constraints = constraints_of(c.constraints[0]);
  ASSERT_EQ(constraints.size(), 6u);
  EXPECT_EQ(constraints[1].quantity, Quantity::throughput);
  EXPECT_EQ(constraints[1].scenario, "");
  EXPECT_EQ(constraints[2].quantity, Quantity::time_to_first_token);
  EXPECT_EQ(constraints[2].scenario, "batch");
  EXPECT_TRUE(constraints[2].relative);
  EXPECT_EQ(constraints[4].bound, 0.02);
  EXPECT_EQ(constraints[5].bound, 4 * 0x1p30);
  const std::string written = write_config(c, "/");
  EXPECT_EQ(write_config(parse_config(written, "y.yaml", "/"), "/"), written);
  EXPECT_EQ(message_of(changed("parameters: 4e9", "parameters: {chat: 4e9}")),
            "x.yaml:17:52: constraints.1.parameters.chat: parameters are the same in every scenario; give one limit");
  EXPECT_THAT(message_of(changed("concurrency: 8", "concurrency: [8, 8]")),
              HasSubstr("scenarios.chat.concurrency: 8 is there twice"));
  EXPECT_THAT(message_of(changed("precision: f32", "precision: fp16")), HasSubstr("known: f32, bf16, f16, fp8"));
}

TEST(Config, HardwareIsThisOrKnownOrAFile) {
  const auto hardware = [](const std::string& text) {
    return parse(std::string(kWhole) + "hardware: " + text).hardware;
  };
  EXPECT_TRUE(parse(kWhole).hardware.is_this());
  EXPECT_EQ(hardware("h100-80gb").name, "h100-80gb");
  EXPECT_FALSE(hardware("h100-80gb").is_this());
  EXPECT_EQ(hardware("my/gpu.yaml").file, "/base/my/gpu.yaml");
  EXPECT_THAT(message_of(std::string(kWhole) + "hardware: h100"),
              HasSubstr("x.yaml:25:11: hardware: no value 'h100'; "));
  for (const char* text : {"h200", "my/gpu.yaml"}) {
    const std::string written = write_config(parse(std::string(kWhole) + "hardware: " + text), "/base");
    EXPECT_THAT(written, HasSubstr(fmt::format("hardware: {}\n", text)));
  }
}

TEST(Config, ALoneConstraintIsOneTargetCalledStudent) {
  const SearchConfig c = parse("teacher: t\ndata: {train: [a], validation: [b]}\nconstraints: {parameters: 60%}\n");
  ASSERT_EQ(c.constraints.size(), 1u);
  EXPECT_EQ(c.constraints[0].name, "student");
  EXPECT_EQ(c.distill.training.tokens, DistillConfig().training.tokens);
}

TEST(Config, WrittenConfigReadsBackToTheSameText) {
  const std::string pretrain =
      "teacher: {pretrain: {model: {hidden_size: 128, intermediate_size: 256, num_hidden_layers: 8, "
      "num_attention_heads: 4}, tokens: 1e6, batch_tokens: 4096, prompt_weight: 0.15}}\n"
      "data: {skills: {seed: 3}, sequence_length: 128}\n";
  for (const std::string& text : {std::string(kWhole), pretrain}) {
    const std::string written = write_config(parse(text), "/base/runs/x");
    EXPECT_EQ(write_config(parse_config(written, "y.yaml", "/base/runs/x"), "/base/runs/x"), written) << written;
  }
  EXPECT_THAT(write_config(parse(kWhole), "/base/runs/x"), HasSubstr("teacher: ../../models/llama\n"));
  EXPECT_THAT(write_config(parse(kWhole), "/base/runs/x"), HasSubstr("  - name: m60\n    memory: 0.6x\n"));
  EXPECT_THAT(write_config(parse(pretrain), "/"), HasSubstr("      head_dim: 32\n"));
}

TEST(Config, RefusesWithPlaceKeyAndWhatIsAllowed) {
  EXPECT_EQ(message_of(changed("tokens: 1e6", "tokns: 1e6")).substr(0, 70),
            "x.yaml:10:11: distill: no key 'tokns'; did you mean 'tokens'? known: t");
  EXPECT_EQ(message_of(changed("tokens: 1e6", "tokens: lots")),
            "x.yaml:10:19: distill.tokens: found 'lots'; allowed: an integer from 1 to 1000000000000000, such as 1024 "
            "or 1e9");
  EXPECT_EQ(message_of(changed("tokens: 1e6", "tokens: 0")),
            "x.yaml:10:19: distill.tokens: found '0'; allowed: an integer from 1 to 1000000000000000, such as 1024 or "
            "1e9");
  EXPECT_EQ(message_of(changed("tokens: 1e6", "tokens: [1]")).substr(0, 46),
            "x.yaml:10:19: distill.tokens: found a list; al");
  EXPECT_EQ(message_of(changed("learning_rate: 2e-3", "learning_rate: 0")),
            "x.yaml:10:59: distill.learning_rate: found '0'; allowed: a number above 0 and at most 1, such as 0.5 or "
            "1e-4");
  EXPECT_EQ(message_of(changed("warmup: 10%", "warmup: 110%")),
            "x.yaml:10:73: distill.warmup: found '110%'; allowed: a fraction from 0 to 1, such as 0.2 or 20%");
  EXPECT_EQ(
      message_of(changed("init: prune", "init: pruned")),
      "x.yaml:10:102: distill.init: no value 'pruned'; did you mean 'prune'? known: prune, least_squares, random");
  EXPECT_EQ(message_of(changed("greedy: false", "greedy: no")),
            "x.yaml:19:33: baselines.greedy: no value 'no'; known: false, true");
  EXPECT_EQ(message_of(changed("memory: 60%", "memory: 60 GIB")),
            "x.yaml:16:25: constraints.memory: found '60 GIB'; allowed: bytes such as 60 GiB, or a part of the "
            "teacher's, such as 60% or 2.0x");
  EXPECT_EQ(message_of(changed("checkpoint: 2 min", "checkpoint: 2 weeks")),
            "x.yaml:24:13: checkpoint: found '2 weeks'; allowed: seconds or a duration above 0 and at most 86400, such "
            "as 90, 30 s or 5 min");
  EXPECT_EQ(message_of(changed("teacher: models/llama", "techer: models/llama")).substr(0, 59),
            "x.yaml:1:1: no key 'techer'; did you mean 'teacher'? known:");
  EXPECT_EQ(message_of(changed("teacher: models/llama\n", "")), "x.yaml:1:1: teacher is missing");
  EXPECT_EQ(message_of(changed("input_tokens: 128, ", "")), "x.yaml:13:9: scenarios.chat.input_tokens is missing");
  EXPECT_EQ(message_of(changed("  chat: {", "  ../up: {")).substr(0, 52),
            "x.yaml:13:3: scenarios: found '../up'; allowed: a na");
  EXPECT_EQ(message_of(changed("[1.0, 0.5, linear]", "[1.0, 0.5, 0.5]")),
            "x.yaml:8:19: search_space.ffn: '0.5' is there twice");
  EXPECT_EQ(message_of("- a\n"), "x.yaml:1:1: found a list; allowed: a map, such as key: value");
  EXPECT_EQ(message_of(""), "x.yaml: found nothing; allowed: a map, such as key: value");
  EXPECT_EQ(message_of(changed("score: {tokens: 8192, objective: lm_loss}", "score:")),
            "x.yaml:12:1: score: found nothing; allowed: a map, such as key: value");
}

TEST(Config, RefusesImpossibleCombinations) {
  EXPECT_EQ(message_of(changed("batch_tokens: 2048", "batch_tokens: 2000")),
            "x.yaml:10:38: distill.batch_tokens: 2000 is no multiple of 128, sequence_length 128 x micro_batches 1; "
            "near: 2048");
  EXPECT_EQ(message_of(changed("batch_tokens: 1024, micro_batches: 2", "batch_tokens: 1024, micro_batches: 3")),
            "x.yaml:20:39: uptrain.batch_tokens: 1024 is no multiple of 384, sequence_length 128 x micro_batches 3; "
            "near: 1152");
  EXPECT_EQ(message_of(changed("tokens: 1e6", "tokens: 1e3")),
            "x.yaml:10:19: distill.tokens: 1000 is less than one batch of 2048");
  EXPECT_EQ(message_of(changed("throughput: {chat: 2.0x}", "throughput: {caht: 2.0x}")),
            "x.yaml:16:49: constraints.0.throughput.caht: no scenario 'caht'; did you mean 'chat'? known: chat, batch");
  EXPECT_EQ(message_of(changed("name: m40", "name: m60")),
            "x.yaml:17:5: constraints.1: a second target is called 'm60'; give each its name");
  EXPECT_EQ(
      message_of(changed("pairs:", "spans: [1]\n  pairs:")),
      "x.yaml:9:11: search_space.spans.layers: found '1'; allowed: an integer from 2 to 1024, such as 1024 or 1e9");
  EXPECT_EQ(message_of(changed("  sequence_length: 128", "  skills: {}\n  sequence_length: 128")),
            "x.yaml:5:11: data.skills: excludes data.train and data.validation; give one of the two");
  EXPECT_EQ(message_of(changed("  validation: [data/v.jsonl]\n", "")),
            "x.yaml:3:3: data.validation: no file; scores and losses need text that was not trained on");
  EXPECT_EQ(message_of(changed("cosine: 1, kl: 0.5", "cosine: 0, kl: 0")),
            "x.yaml:20:82: uptrain.loss: all weights are 0; one of cosine, kl, lm has to be more");
  EXPECT_EQ(
      message_of("teacher: t\ndata: {train: [a], validation: [b]}\nconstraints: {}\n"),
      "x.yaml:3:14: constraints: no limit; allowed: memory, parameters, throughput, latency, time_to_first_token, "
      "time_per_output_token, kv_cache");
  EXPECT_EQ(message_of("teacher: t\ndata: {train: [a], validation: [b]}\nconstraints: {memory: 60%}\n"),
            "x.yaml:3:23: constraints.memory: needs a scenario, for which it is counted; give scenarios");
}

TEST(Config, RefusesAnImpossiblePretrainedTeacher) {
  const auto text = [](const std::string& model) {
    return "teacher:\n  pretrain:\n    model: {" + model +
           "}\n    batch_tokens: 4096\ndata: {skills: {}, sequence_length: 128}\n";
  };
  const std::string head = "hidden_size: 100, intermediate_size: 4, num_hidden_layers: 1, num_attention_heads: ";
  EXPECT_EQ(message_of(text(head + "3")),
            "x.yaml:3:96: teacher.pretrain.model.num_attention_heads: 3 does not divide hidden_size 100; or give "
            "head_dim");
  EXPECT_THAT(message_of(text(head + "4")), HasSubstr("teacher.pretrain.model.head_dim: 25 is odd"));
  EXPECT_THAT(message_of(text(head + "4, head_dim: 8, num_key_value_heads: 3")),
              HasSubstr("num_key_value_heads: 3 does not divide num_attention_heads 4"));
  EXPECT_EQ(message_of(text(head + "4, head_dim: 8")), "no error");
}

TEST(Config, RulesSayWhatLayersHave) {
  const std::string with_rules = changed(
      "memory: 60%", "memory: 60%, most_variants: 5, require: [{layers: 0-3, attention: gqa_2}], forbid: {ffn: no_op}");
  for (const std::string& text : {with_rules, write_config(parse(with_rules), "/")}) {
    const TargetConfig target = parse(text).constraints.at(0);
    EXPECT_EQ(target.most_variants, 5);
    const std::vector<ChoiceRule> rules = rules_of(target, 8);
    ASSERT_EQ(rules.size(), 2u);
    EXPECT_EQ(rules[0].last_layer, 3);
    EXPECT_EQ(rules[0].attention, "gqa_2");
    EXPECT_FALSE(rules[0].forbidden);
    EXPECT_EQ(rules[1].last_layer, 7);
    EXPECT_EQ(rules[1].ffn, "no_op");
    EXPECT_TRUE(rules[1].forbidden);
  }
  EXPECT_THAT(message_of(changed("memory: 60%", "memory: 60%, require: [{layers: 3}]")),
              HasSubstr("constraints.0.require: names no variant; give attention or ffn"));
  EXPECT_THAT(message_of(changed("memory: 60%", "memory: 60%, forbid: [{layers: few, ffn: no_op}]")),
              HasSubstr("constraints.0.forbid: found layers 'few'; write 12, 0-3 or all"));
}

TEST(Config, ServableNamesServers) {
  const auto with = [](const std::string& servers) {
    return changed("memory: 60%", "memory: 60%, servable: " + servers);
  };
  for (const std::string& text : {with("[vllm, llama.cpp]"), write_config(parse(with("[vllm, llama.cpp]")), "/")})
    EXPECT_EQ(parse(text).constraints.at(0).servable, (std::vector<std::string>{"vllm", "llama.cpp"}));
  EXPECT_EQ(message_of(with("[all]")), "no error");
  EXPECT_THAT(message_of(with("[vlm]")), HasSubstr("constraints.0.servable: no server 'vlm'; did you mean 'vllm'?"));
}

TEST(Config, RefusesRulesOnWhatIsNotInTheSearchSpace) {
  const auto text = [](const std::string& rules) {
    return "teacher:\n  pretrain:\n    model: {hidden_size: 64, intermediate_size: 128, num_hidden_layers: 3, "
           "num_attention_heads: 4, num_key_value_heads: 2}\n    batch_tokens: 4096\n"
           "data: {skills: {}, sequence_length: 128}\nsearch_space: {attention: [gqa_1], ffn: [0.5, linear], "
           "pairs: [{attention: no_op, ffn: 1.0}]}\nconstraints:\n  parameters: 60%\n  " +
           rules + "\n";
  };
  EXPECT_EQ(message_of(text("require: [{layers: 0-2, attention: gqa_2}, {layers: 2, attention: no_op, ffn: ffn_64}]")),
            "no error");
  EXPECT_EQ(message_of(text("require: [{attention: gqa_1}, {layers: 1, attention: gqa_4}]")),
            "x.yaml:9:56: constraints.require.1.attention: no attention in the search space 'gqa_4'; did you mean "
            "'gqa_2'? known: gqa_2, gqa_1, no_op");
  EXPECT_THAT(message_of(text("forbid: [{layers: all, ffn: no_op}]")),
              HasSubstr("constraints.forbid.0.ffn: no ffn in the search space 'no_op'"));
  EXPECT_THAT(message_of(text("forbid: [{layers: 1-3, ffn: linear}]")),
              HasSubstr("constraints.forbid.0.layers: 1-3: the teacher has layers 0 to 2"));
  EXPECT_THAT(message_of(text("forbid: [{layers: 2-1, ffn: linear}]")), HasSubstr("the teacher has layers 0 to 2"));
}

TEST(Config, OverridesAreCheckedLikeTheFileAndNamed) {
  const SearchConfig c = parse(kWhole, {"distill.tokens=4096", "score={tokens: 5}", "run_dir=here"});
  EXPECT_EQ(c.distill.training.tokens, 4096);
  EXPECT_EQ(c.score.tokens, 5);
  EXPECT_EQ(c.score.objective, Metric::kl_divergence);  // the whole section was replaced
  EXPECT_EQ(c.run_dir, std::filesystem::current_path() / "here");
  EXPECT_EQ(message_of(kWhole, {"distill.tokens=few"}),
            "--set distill.tokens=few: distill.tokens: found 'few'; allowed: an integer from 1 to 1000000000000000, "
            "such as 1024 or 1e9");
  EXPECT_EQ(message_of(kWhole, {"distil.tokens=1"}).substr(0, 61),
            "--set distil.tokens=1: no key 'distil'; did you mean 'distill");
  EXPECT_EQ(message_of(kWhole, {"uptrain.batch_tokens=1000"}),
            "--set uptrain.batch_tokens=1000: uptrain.batch_tokens: 1000 is no multiple of 256, sequence_length 128 x "
            "micro_batches 2; near: 1024");
}

TEST(Config, SectionsChangeWithTheFilesTheyName) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "config_sections";
  std::filesystem::create_directories(folder / "t");
  std::ofstream(folder / "t/config.json") << "{}";
  std::ofstream(folder / "a") << "text";
  const auto sections = [&](const std::string& more) {
    return config_sections(parse_config("teacher: t\ndata: {train: [a], validation: [a]}\n" + more, "x.yaml", folder));
  };
  const auto before = sections("");
  EXPECT_EQ(sections("run_dir: elsewhere\n"), before);
  EXPECT_NE(sections("seed: 1\n").at("seed"), before.at("seed"));
  EXPECT_EQ(sections("seed: 1\n").at("data"), before.at("data"));
  EXPECT_EQ(before.at("teacher").find("/"), std::string::npos);
  EXPECT_EQ(before.at("distill.dtype"), "  dtype: f32\n");
  EXPECT_NE(sections("distill: {dtype: bf16}\n").at("distill.dtype"), before.at("distill.dtype"));
  EXPECT_EQ(sections("distill: {tokens: 1e6}\n").at("distill.dtype"), before.at("distill.dtype"));
  std::ofstream(folder / "a") << "other";
  EXPECT_NE(sections("").at("data"), before.at("data"));
  EXPECT_EQ(sections("").at("teacher"), before.at("teacher"));
  std::ofstream(folder / "t/config.json") << "{ }";
  EXPECT_NE(sections("").at("teacher"), before.at("teacher"));
  std::filesystem::remove(folder / "a");
  try {
    check_inputs(parse_config("teacher: t\ndata: {train: [a], validation: [a]}\n", "x.yaml", folder));
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), "x.yaml:2:16: data.train.0: no file or folder '" + (folder / "a").string() + "'");
  }
}

TEST(Config, SearchSpaceFollowsTheTeacher) {
  ModelConfig teacher;
  teacher.hidden_size = 128;
  teacher.intermediate_size = 384;
  teacher.num_hidden_layers = 8;
  teacher.num_attention_heads = 4;
  teacher.num_key_value_heads = 2;
  teacher.head_dim = 32;
  const SearchSpace space = search_space(parse(kWhole), teacher);
  const auto names = [](const std::vector<Choice>& choices) {
    std::vector<std::string> texts;
    for (const Choice& choice : choices) texts.push_back(choice.name());
    return texts;
  };
  EXPECT_EQ(names(space.attention), (std::vector<std::string>{"gqa_2", "gqa_1", "linear", "no_op"}));
  EXPECT_EQ(names(space.ffn), (std::vector<std::string>{"ffn_384", "ffn_192", "linear"}));
  ASSERT_EQ(space.pairs.size(), 1u);
  EXPECT_EQ(space.pairs[0].ffn.name(), "ffn_384");
  EXPECT_TRUE(space.spans.empty());
  const std::string with_spans =
      changed("pairs:", "spans: [2, {layers: 3, attention: no_op, ffn: 0.5}, {layers: 2}]\n  pairs:");
  const SearchSpace spans = search_space(parse(with_spans), teacher);
  ASSERT_EQ(spans.spans.size(), 2u);  // the third is the first again
  EXPECT_EQ(spans.spans[0].layers, 2);
  EXPECT_EQ(spans.spans[0].block.attention.name() + " " + spans.spans[0].block.ffn.name(), "gqa_2 ffn_384");
  EXPECT_EQ(spans.spans[1].layers, 3);
  EXPECT_EQ(spans.spans[1].block.attention.name() + " " + spans.spans[1].block.ffn.name(), "no_op ffn_192");
  EXPECT_EQ(search_space(parse(write_config(parse(with_spans), "/")), teacher).spans, spans.spans);
  try {
    search_space(parse(changed("pairs:", "spans: [9]\n  pairs:")), teacher);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "x.yaml:9:11: search_space.spans.0.layers: 9: the teacher has 8 layers");
  }
  try {
    search_space(parse(changed("gqa_1, linear", "gqa_1, lineer")), teacher);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("x.yaml:7:22: search_space.attention.1: "));
    EXPECT_THAT(e.what(), HasSubstr("lineer"));
  }
}

}  // namespace
}  // namespace tangram
