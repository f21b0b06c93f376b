#include "nas/config.h"

#include <algorithm>
#include <sstream>

#include "blocks/config_json.h"
#include "nas/config_checks.h"
#include "nas/config_reader.h"
#include "nas/config_writer.h"
#include "nas/digest.h"
#include "nas/hardware_file.h"
#include "nas/limit_text.h"

namespace tangram {
namespace {

constexpr double kMostTokens = 1e15;
constexpr double kMostSize = 1 << 20;  // of a model's dimension and of a sequence; keeps products inside 64 bits
constexpr std::string_view kDTypeNames[] = {"f32", "bf16"};
constexpr std::string_view kDecayNames[] = {"linear", "cosine"};
constexpr std::string_view kOrderNames[] = {"breadth_first", "depth_first"};
constexpr std::string_view kInitNames[] = {"prune", "least_squares", "random"};
constexpr std::string_view kTargetNames[] = {"subblock", "block"};

}  // namespace

// describe(visitor, struct) names the keys of a section once, for ConfigReader and ConfigWriter. In namespace tangram,
// so that the visitors find it.

template <class V>
static void describe(V& v, TrainingConfig& c) {
  v.count("tokens", c.tokens, within(1, kMostTokens));
  v.count("batch_tokens", c.batch_tokens, within(1, kMostTokens));
  v.count("micro_batches", c.micro_batches, within(1, 1 << 20));
  v.count("shards", c.shards, within(1, 1 << 20));
  v.number("learning_rate", c.learning_rate, {.low = 0, .high = 1, .above_low = true});
  v.fraction("warmup", c.warmup, within(0, 1));
  v.fraction("decay_start", c.decay_start, within(0, 1));
  v.fraction("final_learning_rate", c.final_learning_rate, within(0, 1));
  v.choice("decay", c.decay, kDecayNames);
  v.number("beta1", c.optimiser.beta1, within(0, 0.9999));
  v.number("beta2", c.optimiser.beta2, within(0, 0.99999));
  v.number("epsilon", c.optimiser.epsilon, {.low = 0, .high = 1, .above_low = true});
  v.number("weight_decay", c.optimiser.weight_decay, within(0, 10));
  v.number("clip", c.optimiser.gradient_clip, at_least(0));
  v.choice("dtype", c.dtype, kDTypeNames);
}

template <class V>
static void describe(V& v, ModelConfig& c) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"})
    v.require(key);
  v.count("hidden_size", c.hidden_size, within(1, kMostSize));
  v.count("intermediate_size", c.intermediate_size, within(1, kMostSize));
  v.count("num_hidden_layers", c.num_hidden_layers, within(1, 1024));
  v.count("num_attention_heads", c.num_attention_heads, within(1, kMostSize));
  v.count("num_key_value_heads", c.num_key_value_heads, within(1, kMostSize));
  v.count("head_dim", c.head_dim, within(1, 1024));
  v.number("rms_norm_eps", c.rms_norm_eps, within(1e-12, 0.1));
  v.number("rope_theta", c.rope_theta, within(1, 1e12));
  v.flag("tie_word_embeddings", c.tie_word_embeddings);
}

template <class V>
static void describe(V& v, PretrainConfig& c) {
  v.require("model");
  v.section("model", c.model);
  describe(v, c.training);
  v.number("prompt_weight", c.prompt_weight, within(0, 1));
  v.flag("cache", c.cache);
}

template <class V>
static void describe(V& v, TeacherConfig& c) {
  v.require("pretrain");
  v.section("pretrain", c.pretrain);
}

template <class V>
static void describe(V& v, SkillsConfig& c) {
  v.count("seed", c.seed, within(0, 0x1p53));
  v.count("facts", c.facts, within(0, 676));
  v.count("train_tokens", c.train_tokens, within(1, kMostTokens));
  v.count("validation_tokens", c.validation_tokens, within(1, kMostTokens));
}

template <class V>
static void describe(V& v, DataConfig& c) {
  v.paths("train", c.train);
  v.paths("validation", c.validation);
  v.section("skills", c.skills);
  v.count("sequence_length", c.sequence_length, within(2, kMostSize));
}

template <class V>
static void describe(V& v, PairConfig& c) {
  v.require("attention");
  v.require("ffn");
  v.text("attention", c.attention);
  v.text("ffn", c.ffn);
}

template <class V>
static void describe(V& v, SpanConfig& c) {
  v.require("layers");
  v.count("layers", c.layers, within(2, 1024));
  v.text("attention", c.attention);
  v.text("ffn", c.ffn);
}

template <class V>
static void describe(V& v, SearchSpaceConfig& c) {
  v.texts("attention", c.attention);
  v.texts("ffn", c.ffn);
  v.sections("pairs", c.pairs);
  v.sections("spans", c.spans, "layers");
}

template <class V>
static void describe(V& v, DistillConfig& c) {
  describe(v, c.training);
  v.choice("order", c.order, kOrderNames);
  v.choice("init", c.init, kInitNames);
  v.choice("target", c.target, kTargetNames);
}

template <class V>
static void describe(V& v, ScoreConfig& c) {
  v.count("tokens", c.tokens, within(1, kMostTokens));
  v.choice("objective", c.objective, kMetricNames);
}

template <class V>
static void describe(V& v, ScenarioConfig& c) {
  for (const char* key : {"input_tokens", "output_tokens", "concurrency"}) v.require(key);
  v.count("input_tokens", c.input_tokens, within(1, kMostSize));
  v.count("output_tokens", c.output_tokens, within(1, kMostSize));
  v.one_or_more("concurrency", c.concurrency, within(1, kMostSize));
  v.choice("precision", c.precision, kPrecisionNames);
  v.choice("kv_precision", c.kv_precision, kPrecisionNames);
  v.count("tensor_parallel", c.tensor_parallel, within(1, 1024));
}

template <class V>
static void describe(V& v, RuleConfig& c) {
  v.text("layers", c.layers);
  v.text("attention", c.attention);
  v.text("ffn", c.ffn);
}

template <class V>
static void describe(V& v, TargetConfig& c) {
  v.name("name", c.name);
  for (const Quantity q : kQuantities) v.limits(name_of(q), c.of(q), spelling_of(q).parse, spelling_of(q).example);
  v.count("most_variants", c.most_variants, within(0, kMostSize));
  v.sections("require", c.require);
  v.sections("forbid", c.forbid);
  v.texts("servable", c.servable);
}

template <class V>
static void describe(V& v, SolutionsConfig& c) {
  v.count("count", c.count, within(1, 1000));
  v.fraction("min_difference", c.min_difference, within(0, 1));
  v.text("frontier", c.frontier);
  v.count("points", c.points, within(2, 100000));
}

template <class V>
static void describe(V& v, RescoreConfig& c) {
  v.count("rounds", c.rounds, within(0, 1000));
  v.count("candidates", c.candidates, within(1, 1000));
}

template <class V>
static void describe(V& v, BaselinesConfig& c) {
  v.flag("greedy", c.greedy);
  v.flag("uniform", c.uniform);
  v.flag("largest_parameter", c.largest_parameter);
  v.count("random", c.random, within(0, 1000));
  v.choices("objectives", c.objectives, kMetricNames);
}

template <class V>
static void describe(V& v, GkdLossWeights& c) {
  v.number("cosine", c.cosine, at_least(0));
  v.number("kl", c.kl, at_least(0));
  v.number("lm", c.cross_entropy, at_least(0));
}

template <class V>
static void describe(V& v, UptrainConfig& c) {
  describe(v, c.training);
  v.section("loss", c.loss);
}

template <class V>
static void describe(V& v, EvaluateConfig& c) {
  v.count("tokens", c.tokens, within(1, kMostTokens));
  v.count("skill_sequences", c.skill_sequences, within(1, 1e9));
  v.flag("without_distillation", c.without_distillation);
  v.flag("runtime", c.runtime);
}

template <class V>
static void describe(V& v, SearchConfig& c) {
  v.require("teacher");
  v.require("data");
  v.path_or_section("teacher", c.teacher.folder, c.teacher);
  v.section("data", c.data);
  v.section("search_space", c.search_space);
  v.section("distill", c.distill);
  v.section("score", c.score);
  v.named_sections("scenarios", c.scenarios);
  v.name_or_path("hardware", c.hardware.name, c.hardware.file, hardware_choices());
  v.sections("constraints", c.constraints);
  v.section("solutions", c.solutions);
  v.section("rescore", c.rescore);
  v.section("baselines", c.baselines);
  v.section("uptrain", c.uptrain);
  v.section("evaluate", c.evaluate);
  v.choices("export", c.exports, kExportNames);
  v.path("run_dir", c.run_dir);
  v.count("seed", c.seed, within(0, 0x1p53));
  v.count("threads", c.threads, within(0, 4096));
  v.seconds("checkpoint", c.checkpoint_seconds, {.low = 0, .high = 86400, .above_low = true});
}

namespace {

std::string write(const SearchConfig& config, ConfigWriter::SpellPath spell_path) {
  ConfigWriter writer(std::move(spell_path));
  // Visitors take a mutable struct because a reader fills it; a writer only looks.
  describe(writer, const_cast<SearchConfig&>(config));
  return writer.yaml;
}

SearchConfig make_config(YamlNode source, const std::filesystem::path& folder, std::span<const std::string> overrides) {
  SearchConfig config;
  for (const std::string& assignment : overrides) set_yaml(source, assignment);
  config.source = std::move(source);
  ConfigReader reader(config.source, "", folder);
  describe(reader, config);
  reader.finish();
  check_config(config);
  return config;
}

}  // namespace

SearchConfig read_search_config(const std::filesystem::path& path, std::span<const std::string> overrides) {
  SearchConfig config = make_config(read_yaml(path), std::filesystem::absolute(path).parent_path(), overrides);
  if (config.run_dir.empty()) config.run_dir = std::filesystem::absolute("runs") / path.stem();
  return config;
}

SearchConfig parse_config(std::string_view text, const std::string& name, const std::filesystem::path& folder,
                          std::span<const std::string> overrides) {
  return make_config(parse_yaml(text, name), folder, overrides);
}

std::string write_config(const SearchConfig& config, const std::filesystem::path& folder) {
  return write(config, [&](const std::filesystem::path& p) { return p.lexically_proximate(folder).string(); });
}

std::map<std::string, std::string> config_sections(const SearchConfig& config) {
  SearchConfig that_counts = config;
  that_counts.run_dir.clear();
  that_counts.distill.order = {};
  std::map<std::string, std::string> sections;
  std::string top, path;
  std::istringstream lines(write(that_counts, fingerprint));
  for (std::string line; std::getline(lines, line);) {
    const size_t depth = line.find_first_not_of(' ') / 2;
    const std::string key = line.substr(2 * depth, line.find(':') - 2 * depth);
    if (depth == 0) top = path = key;
    if (depth == 1) path = top + '.' + key;
    sections[top] += line + '\n';
    if (depth > 0) sections[path] += line + '\n';
  }
  return sections;
}

std::vector<Constraint> constraints_of(const TargetConfig& target) {
  std::vector<Constraint> constraints;
  for (const Quantity q : kQuantities)
    for (const auto& [scenario, limit] : target.of(q))
      constraints.push_back({.quantity = q, .scenario = scenario, .bound = limit.value, .relative = limit.relative});
  return constraints;
}

std::vector<ChoiceRule> rules_of(const TargetConfig& target, int64_t layer_count) {
  std::vector<ChoiceRule> rules;
  for (const auto& [list, forbidden] : {std::pair(&target.require, false), {&target.forbid, true}})
    for (const RuleConfig& rule : *list)
      rules.push_back(parse_layers(rule.layers, layer_count,
                                   {.attention = rule.attention, .ffn = rule.ffn, .forbidden = forbidden}));
  return rules;
}

std::vector<Scenario> scenarios_of(const SearchConfig& config) {
  std::vector<Scenario> scenarios;
  for (const ScenarioConfig& s : config.scenarios)
    for (const int64_t concurrency : s.concurrency)
      scenarios.push_back({.name = s.concurrency.size() == 1 ? s.name : fmt::format("{}@{}", s.name, concurrency),
                           .input_tokens = s.input_tokens,
                           .output_tokens = s.output_tokens,
                           .concurrency = concurrency,
                           .precision = s.precision,
                           .own_kv_precision = s.kv_precision,
                           .tensor_parallel = s.tensor_parallel});
  return scenarios;
}

void check_inputs(const SearchConfig& config) {
  const auto check_exists = [&](const std::string& key, const std::filesystem::path& path) {
    std::error_code error;  // other than that nothing is there
    if (!path.empty() && !exists(path, error))
      throw impossible(config, key, "no file or folder '{}'{}", path.string(), error ? ": " + error.message() : "");
  };
  check_exists("teacher", config.teacher.folder);
  check_exists("hardware", config.hardware.file);
  for (size_t i = 0; i < config.data.train.size(); ++i)
    check_exists(fmt::format("data.train.{}", i), config.data.train[i]);
  for (size_t i = 0; i < config.data.validation.size(); ++i)
    check_exists(fmt::format("data.validation.{}", i), config.data.validation[i]);
  const bool has_rules = std::any_of(config.constraints.begin(), config.constraints.end(),
                                     [](const TargetConfig& t) { return !t.require.empty() || !t.forbid.empty(); });
  if (std::error_code error; has_rules && exists(config.teacher.folder / "config.json", error))
    check_choices(config, read_config(config.teacher.folder).config);
}

std::string place_of(const SearchConfig& config, std::string_view key_path) {
  const YamlNode* node = &config.source;
  std::string place = config.source.where;
  while (!key_path.empty()) {
    const std::string_view key = key_path.substr(0, key_path.find('.'));
    key_path.remove_prefix(std::min(key_path.size(), key.size() + 1));
    if (node->kind == YamlNode::Kind::list) {
      const std::optional<int64_t> index = parse_count(key);
      if (!index || *index >= static_cast<int64_t>(node->items.size())) break;
      node = &node->items[static_cast<size_t>(*index)];
    } else {
      const YamlEntry* entry = node->find(key);
      if (!entry) break;
      node = &entry->value;
    }
    place = node->where;
  }
  return place;
}

SearchSpace search_space(const SearchConfig& config, const ModelConfig& teacher) {
  const auto choice_of = [&](Subblock subblock, const std::string& text, const std::string& key) {
    try {
      return parse_choice(subblock, text, teacher);
    } catch (const Error& e) {
      throw impossible(config, key, "{}", e.what());
    }
  };
  const auto choices_of = [&](Subblock subblock, const std::vector<std::string>& texts) {
    std::vector<Choice> choices = {teacher_choice(subblock, teacher)};
    for (size_t i = 0; i < texts.size(); ++i) {
      const Choice choice = choice_of(subblock, texts[i], fmt::format("search_space.{}.{}", name_of(subblock), i));
      if (std::find(choices.begin(), choices.end(), choice) == choices.end()) choices.push_back(choice);
    }
    return choices;
  };
  SearchSpace space = {choices_of(Subblock::attention, config.search_space.attention),
                       choices_of(Subblock::ffn, config.search_space.ffn),
                       {},
                       {}};
  for (size_t i = 0; i < config.search_space.pairs.size(); ++i) {
    const PairConfig& pair = config.search_space.pairs[i];
    const std::string key = fmt::format("search_space.pairs.{}", i);
    const BlockChoice block = {choice_of(Subblock::attention, pair.attention, key + ".attention"),
                               choice_of(Subblock::ffn, pair.ffn, key + ".ffn")};
    if (std::find(space.pairs.begin(), space.pairs.end(), block) == space.pairs.end()) space.pairs.push_back(block);
  }
  for (size_t i = 0; i < config.search_space.spans.size(); ++i) {
    const SpanConfig& asked = config.search_space.spans[i];
    const std::string key = fmt::format("search_space.spans.{}", i);
    if (asked.layers > teacher.num_hidden_layers)
      throw impossible(config, key + ".layers", "{}: the teacher has {} layers", asked.layers,
                       teacher.num_hidden_layers);
    const auto choice = [&](Subblock s, const std::string& text) {
      return text.empty() ? teacher_choice(s, teacher) : choice_of(s, text, fmt::format("{}.{}", key, name_of(s)));
    };
    const Span span = {asked.layers, {choice(Subblock::attention, asked.attention), choice(Subblock::ffn, asked.ffn)}};
    if (std::find(space.spans.begin(), space.spans.end(), span) == space.spans.end()) space.spans.push_back(span);
  }
  return space;
}

}  // namespace tangram
