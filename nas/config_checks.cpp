#include "nas/config_checks.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "nas/limit_text.h"

namespace tangram {
namespace {

void check_training(const SearchConfig& c, const std::string& key, const TrainingConfig& t) {
  const int64_t unit = c.data.sequence_length * t.micro_batches;
  if (t.batch_tokens % unit != 0)
    throw impossible(c, key + ".batch_tokens",
                     "{} is no multiple of {}, sequence_length {} x micro_batches {}; near: {}", t.batch_tokens, unit,
                     c.data.sequence_length, t.micro_batches,
                     std::max<int64_t>(1, (t.batch_tokens + unit / 2) / unit) * unit);
  if (!std::has_single_bit(uint64_t(t.shards)) || t.micro_batches % t.shards != 0)
    throw impossible(c, key + ".shards", "{}: must be a power of two that divides micro_batches {}; near: {}", t.shards,
                     t.micro_batches, std::gcd(std::bit_floor(uint64_t(t.shards)), uint64_t(t.micro_batches)));
  if (t.tokens < t.batch_tokens)
    throw impossible(c, key + ".tokens", "{} is less than one batch of {}", t.tokens, t.batch_tokens);
}

void check_data(const SearchConfig& c) {
  const DataConfig& data = c.data;
  if (data.skills && !(data.train.empty() && data.validation.empty()))
    throw impossible(c, "data.skills", "excludes data.train and data.validation; give one of the two");
  if (!data.skills && data.train.empty()) throw impossible(c, "data.train", "no file; or give data.skills");
  if (!data.skills && data.validation.empty())
    throw impossible(c, "data.validation", "no file; scores and losses need text that was not trained on");
}

void check_pretrain(const SearchConfig& c, PretrainConfig& pretrain) {
  const std::string key = "teacher.pretrain";
  ModelConfig& m = pretrain.model;
  if (m.num_key_value_heads == 0) m.num_key_value_heads = m.num_attention_heads;
  if (m.head_dim == 0) {
    if (m.hidden_size % m.num_attention_heads != 0)
      throw impossible(c, key + ".model.num_attention_heads", "{} does not divide hidden_size {}; or give head_dim",
                       m.num_attention_heads, m.hidden_size);
    m.head_dim = m.hidden_size / m.num_attention_heads;
  }
  if (m.num_attention_heads % m.num_key_value_heads != 0)
    throw impossible(c, key + ".model.num_key_value_heads", "{} does not divide num_attention_heads {}",
                     m.num_key_value_heads, m.num_attention_heads);
  if (m.head_dim % 2 != 0)
    throw impossible(c, key + ".model.head_dim", "{} is odd; rotary embedding turns pairs of channels", m.head_dim);
  m.max_position_embeddings = c.data.sequence_length;
  check_training(c, key, pretrain.training);
}

// The quantities' names as a config spells them.
std::string quantity_names() {
  std::string names;
  for (const Quantity q : kQuantities) names += fmt::format("{}{}", names.empty() ? "" : ", ", name_of(q));
  return names;
}

void check_limits(const SearchConfig& c, const TargetConfig& target, const std::string& key,
                  const std::vector<std::string>& scenarios) {
  for (const Quantity q : kQuantities)
    for (const auto& [name, limit] : target.of(q)) {
      const std::string place = fmt::format("{}.{}{}{}", key, name_of(q), name.empty() ? "" : ".", name);
      if (q == Quantity::parameters && !name.empty())
        throw impossible(c, place, "parameters are the same in every scenario; give one limit");
      if (q != Quantity::parameters && name.empty() && scenarios.empty())
        throw impossible(c, place, "needs a scenario, for which it is counted; give scenarios");
      if (!name.empty() && std::find(scenarios.begin(), scenarios.end(), name) == scenarios.end())
        throw impossible(c, place, "{}", unknown_name("scenario", name, scenarios).what());
    }
}

void check_scenarios(const SearchConfig& c) {
  for (const ScenarioConfig& scenario : c.scenarios)
    for (size_t i = 0; i < scenario.concurrency.size(); ++i)
      if (std::count(scenario.concurrency.begin(), scenario.concurrency.end(), scenario.concurrency[i]) > 1)
        throw impossible(c, fmt::format("scenarios.{}.concurrency", scenario.name), "{} is there twice",
                         scenario.concurrency[i]);
}

void check_rules(const SearchConfig& c, const TargetConfig& target, const std::string& target_key) {
  for (const auto& [rules, name] : {std::pair(&target.require, ".require"), {&target.forbid, ".forbid"}})
    for (const RuleConfig& rule : *rules) {
      const std::string key = target_key + name;
      if (rule.attention.empty() && rule.ffn.empty())
        throw impossible(c, key, "names no variant; give attention or ffn");
      try {
        parse_layers(rule.layers, 1, {});
      } catch (const Error& e) {
        throw impossible(c, key, "{}", e.what());
      }
    }
}

void check_servable(const SearchConfig& c, const TargetConfig& target, const std::string& key) {
  try {
    servers_called(target.servable);
  } catch (const Error& e) {
    throw impossible(c, key + ".servable", "{}", e.what());
  }
}

// Of the scenarios, and of each of their batch sizes.
std::vector<std::string> scenario_names(const SearchConfig& c) {
  std::vector<std::string> names;
  for (const ScenarioConfig& scenario : c.scenarios) {
    names.push_back(scenario.name);
    if (scenario.concurrency.size() > 1)
      for (const int64_t n : scenario.concurrency) names.push_back(fmt::format("{}@{}", scenario.name, n));
  }
  return names;
}

void check_frontier(const SearchConfig& c) {
  const std::string key = "solutions.frontier";
  if (c.solutions.frontier.empty()) {
    if (c.solutions.points != SolutionsConfig{}.points)
      throw impossible(c, "solutions.points", "is of a frontier; say over which quantity, such as frontier: memory");
    return;
  }
  Constraint moved;
  try {
    moved = parse_moved_limit(c.solutions.frontier);
  } catch (const Error& e) {
    throw impossible(c, key, "{}", e.what());
  }
  if (moved.quantity == Quantity::parameters) return;
  const std::vector<std::string> scenarios = scenario_names(c);
  if (moved.scenario.empty() && c.scenarios.size() != 1)
    throw impossible(c, key, "{} has {} scenarios to be counted for{}", c.solutions.frontier, c.scenarios.size(),
                     scenarios.empty() ? "; give one"
                                       : fmt::format("; say which, such as {}.{}", scenarios[0], c.solutions.frontier));
  if (!moved.scenario.empty() && std::find(scenarios.begin(), scenarios.end(), moved.scenario) == scenarios.end())
    throw impossible(c, key, "{}", unknown_name("scenario", moved.scenario, scenarios).what());
}

// Where a target is: one set of limits, or several as a list.
std::string target_key(const SearchConfig& c, size_t i) {
  const YamlEntry* all = c.source.find("constraints");
  return all && !all->value.items.empty() ? fmt::format("constraints.{}", i) : "constraints";
}

void check_constraints(const SearchConfig& c) {
  std::vector<std::string> names;
  const std::vector<std::string> scenarios = scenario_names(c);
  for (size_t i = 0; i < c.constraints.size(); ++i) {
    const TargetConfig& target = c.constraints[i];
    const std::string key = target_key(c, i);
    if (std::find(names.begin(), names.end(), target.name) != names.end())
      throw impossible(c, key, "a second target is called '{}'; give each its name", target.name);
    names.push_back(target.name);
    if (std::all_of(target.limits.begin(), target.limits.end(), [](const auto& limits) { return limits.empty(); }))
      throw impossible(c, key, "no limit; allowed: {}", quantity_names());
    check_limits(c, target, key, scenarios);
    check_rules(c, target, key);
    check_servable(c, target, key);
  }
}

// The names that a subblock can have in a student.
std::vector<std::string> names_of(const SearchSpace& space, Subblock s) {
  std::vector<std::string> names;
  const auto add = [&](const Choice& choice) {
    if (std::find(names.begin(), names.end(), choice.name()) == names.end()) names.push_back(choice.name());
  };
  for (const Choice& choice : s == Subblock::attention ? space.attention : space.ffn) add(choice);
  for (const BlockChoice& pair : space.pairs) add(s == Subblock::attention ? pair.attention : pair.ffn);
  for (const Span& span : space.spans) add(s == Subblock::attention ? span.block.attention : span.block.ffn);
  return names;
}

void check_rule(const SearchConfig& c, const RuleConfig& rule, const std::string& key, const SearchSpace& space,
                const ModelConfig& teacher) {
  const ChoiceRule layers = parse_layers(rule.layers, teacher.num_hidden_layers, {});
  if (layers.first_layer < 0 || layers.last_layer < layers.first_layer ||
      layers.last_layer >= teacher.num_hidden_layers)
    throw impossible(c, key + ".layers", "{}: the teacher has layers 0 to {}", rule.layers,
                     teacher.num_hidden_layers - 1);
  for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
    const std::string& name = s == Subblock::attention ? rule.attention : rule.ffn;
    const std::vector<std::string> known = names_of(space, s);
    if (!name.empty() && std::find(known.begin(), known.end(), name) == known.end())
      throw impossible(c, fmt::format("{}.{}", key, name_of(s)), "{}",
                       unknown_name(fmt::format("{} in the search space", name_of(s)), name, known).what());
  }
}

}  // namespace

void check_choices(const SearchConfig& c, const ModelConfig& teacher) {
  const SearchSpace space = search_space(c, teacher);
  for (size_t i = 0; i < c.constraints.size(); ++i) {
    const std::string target = target_key(c, i);
    for (const auto& [rules, name] :
         {std::pair(&c.constraints[i].require, "require"), {&c.constraints[i].forbid, "forbid"}})
      for (size_t r = 0; r < rules->size(); ++r)
        check_rule(c, (*rules)[r], fmt::format("{}.{}.{}", target, name, r), space, teacher);
  }
}

void check_config(SearchConfig& c) {
  check_data(c);
  if (c.teacher.pretrain) check_pretrain(c, *c.teacher.pretrain);
  check_training(c, "distill", c.distill.training);
  check_training(c, "uptrain", c.uptrain.training);
  check_scenarios(c);
  check_constraints(c);
  check_frontier(c);
  if (c.teacher.pretrain) check_choices(c, c.teacher.pretrain->model);
  const GkdLossWeights& loss = c.uptrain.loss;
  if (loss.cosine == 0 && loss.kl == 0 && loss.cross_entropy == 0)
    throw impossible(c, "uptrain.loss", "all weights are 0; one of cosine, kl, lm has to be more");
}

}  // namespace tangram
