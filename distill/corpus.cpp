#include "distill/corpus.h"

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "distill/skills.h"
#include "kernels/error.h"
#include "kernels/random.h"

namespace tangram {
namespace {

constexpr int64_t kMinCharacters = 64, kMaxCharacters = 1 << 20;
constexpr int64_t kMaxFacts = 26 * 26;
// Below, too few pairs may be left to one side of the split to draw one.
constexpr double kMinHeldOut = 0.01, kMaxHeldOut = 0.9;

constexpr std::array<int32_t, 256> kTokenOf = [] {
  std::array<int32_t, 256> token_of{};
  for (size_t i = 0; i < kCorpusSymbols.size(); ++i)
    token_of[static_cast<unsigned char>(kCorpusSymbols[i])] = static_cast<int32_t>(i);
  return token_of;
}();

void check_config(const CorpusConfig& c) {
  if (c.characters < kMinCharacters || c.characters > kMaxCharacters)
    throw bad_input("corpus: sequences of {} characters; allowed are {} to {}", c.characters, kMinCharacters,
                    kMaxCharacters);
  if (c.facts < 1 || c.facts > kMaxFacts)
    throw bad_input("corpus: {} memorised facts; allowed are 1 to {}", c.facts, kMaxFacts);
  if (!(c.held_out >= kMinHeldOut && c.held_out <= kMaxHeldOut))
    throw bad_input("corpus: {} of the additions held out; allowed are {} to {}", c.held_out, kMinHeldOut, kMaxHeldOut);
  const std::span<const Skill> skills = corpus_skills();
  if (c.skill_weights.size() != skills.size())
    throw bad_input("corpus: {} skill weights for {} skills", c.skill_weights.size(), skills.size());
  for (size_t i = 0; i < skills.size(); ++i)
    if (!(c.skill_weights[i] >= 0 && std::isfinite(c.skill_weights[i])))
      throw bad_input("corpus: the weight of '{}' is {}; allowed is 0 or more", skills[i].name, c.skill_weights[i]);
  const double sum = std::accumulate(c.skill_weights.begin(), c.skill_weights.end(), 0.0);
  if (!(sum > 0 && std::isfinite(sum))) throw bad_input("corpus: the skill weights add up to {}", sum);
}

size_t draw_skill(Draws& draws, std::span<const double> weights) {
  double left = draws.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t last = 0;  // rounding may leave a little behind the last weight
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    last = i;
    if (left < weights[i]) break;
    left -= weights[i];
  }
  return last;
}

// Fk4 b7 z1
void add_header(Scene& s) {
  s.add_prompt("F");
  for (const int l : s.draws.distinct(3 + s.draws.below(2), 26)) {
    const Fact fact{static_cast<char>('a' + l), static_cast<char>('0' + s.draws.below(10))};
    s.add_prompt(s.header.empty() ? "" : " ");
    s.add_prompt({&fact.letter, 1});
    s.add_prompt({&fact.digit, 1});
    s.header.push_back(fact);
  }
  s.add_prompt("\n");
}

Document add_document(Scene& s, size_t skill) {
  const auto place = [&] { return static_cast<int32_t>(s.text.size()); };
  Document document{static_cast<int32_t>(skill), place(), 0, 0};
  s.add_prompt({&corpus_skills()[skill].tag, 1});
  corpus_skills()[skill].make(s);
  if (s.text.back() != '\n') s.add_prompt("\n");
  document.answer_first = document.end = place();
  for (int32_t i = document.end - 1; i > document.first; --i)
    if (s.answer[size_t(i)]) document.answer_first = i;
  return document;
}

}  // namespace

std::string corpus_tokenizer_json() {
  nlohmann::ordered_json vocab;
  for (size_t i = 0; i < kCorpusSymbols.size(); ++i) vocab[std::string(1, kCorpusSymbols[i])] = i;
  const nlohmann::ordered_json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", nlohmann::ordered_json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", {{"type", "Fuse"}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", false},
        {"vocab", vocab},
        {"merges", nlohmann::ordered_json::array()}}},
  };
  return tokenizer.dump(1) + "\n";
}

std::string corpus_tokenizer_config_json() {
  const nlohmann::ordered_json config = {
      {"tokenizer_class", "PreTrainedTokenizerFast"}, {"eos_token", "\n"}, {"clean_up_tokenization_spaces", false}};
  return config.dump(1) + "\n";
}

std::vector<double> default_skill_weights() {
  std::vector<double> weights;
  for (const Skill& skill : corpus_skills()) weights.push_back(skill.weight);
  return weights;
}

CorpusSequence make_sequence(const CorpusConfig& config, Split split, int64_t index) {
  check_config(config);
  CHECK(index >= 0 && index < int64_t{1} << 60, "sequence {}", index);
  Draws draws{config.seed, uint64_t(index) * 4 + uint64_t(split)};
  Scene scene{config, split, draws, {}, {}, {}};
  CorpusSequence sequence;
  add_header(scene);
  const auto characters = static_cast<size_t>(config.characters);
  while (scene.text.size() < characters) {
    const Document document = add_document(scene, draw_skill(draws, config.skill_weights));
    if (document.end <= config.characters) sequence.documents.push_back(document);
  }
  scene.text.resize(characters);
  scene.answer.resize(characters);
  sequence.text = std::move(scene.text);
  sequence.answer = std::move(scene.answer);
  for (const char c : sequence.text) sequence.tokens.push_back(kTokenOf[static_cast<unsigned char>(c)]);
  return sequence;
}

TokenShard corpus_shard(const CorpusConfig& config, Split split, int64_t first, int64_t count, float prompt_weight) {
  TokenPacker packer(config.characters - 1);
  std::vector<float> weights;
  for (int64_t index = first; index < first + count; ++index) {
    const CorpusSequence sequence = make_sequence(config, split, index);
    weights.clear();
    for (const uint8_t answer : sequence.answer) weights.push_back(answer ? 1.0f : prompt_weight);
    packer.add(sequence.tokens, weights);
  }
  return packer.take("the generated corpus");
}

void count_right(std::span<SkillCount> counts, const CorpusSequence& sequence, std::span<const int32_t> predicted) {
  CHECK(counts.size() == corpus_skills().size(), "{} counts for {} skills", counts.size(), corpus_skills().size());
  CHECK(predicted.size() + 1 >= sequence.tokens.size(), "{} predictions for {} tokens", predicted.size(),
        sequence.tokens.size());
  for (const Document& document : sequence.documents) {
    bool right = true;
    for (auto i = static_cast<size_t>(document.answer_first); i < static_cast<size_t>(document.end); ++i)
      right &= !sequence.answer[i] || predicted[i - 1] == sequence.tokens[i];
    SkillCount& count = counts[static_cast<size_t>(document.skill)];
    ++count.total;
    count.right += right;
  }
}

}  // namespace tangram
