#include "distill/corpus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "blocks/tokenizer.h"
#include "distill/skills.h"
#include "kernels/error.h"

namespace tangram {
namespace {

using Facts = std::map<char, char>;

/// What an independent reader of a document makes of it: the characters that have to be answers (others are '_'), as it
/// derives them from the prompt. Empty if the document is malformed.
using Reading = std::optional<std::string>;

bool is_letter(char c) { return c >= 'a' && c <= 'z'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// `k4 b7 z1` as a table; a letter may stand for an earlier letter. Nothing if a letter comes twice.
std::optional<Facts> read_facts(std::string_view text) {
  Facts facts;
  for (size_t i = 0; i < text.size(); i += 3) {
    if (i + 2 > text.size() || (i > 0 && text[i - 1] != ' ') || !is_letter(text[i])) return std::nullopt;
    char value = text[i + 1];
    if (is_letter(value)) {
      if (!facts.count(value)) return std::nullopt;
      value = facts[value];
    }
    if (!is_digit(value) || !facts.emplace(text[i], value).second) return std::nullopt;
  }
  return facts;
}

/// Queries `b7k4` answered from a table; every letter at most once.
Reading read_queries(std::string_view queries, Facts facts) {
  std::string answers;
  if (queries.size() % 2) return std::nullopt;
  for (size_t i = 0; i < queries.size(); i += 2) {
    if (!facts.count(queries[i])) return std::nullopt;
    answers += {'_', facts[queries[i]]};
    facts.erase(queries[i]);
  }
  return answers;
}

Reading read_table_and_queries(std::string_view body, bool letters_as_values) {
  const size_t mark = body.find('?');
  if (mark == body.npos) return std::nullopt;
  const std::string_view table = body.substr(0, mark);
  const auto facts = read_facts(table);
  if (!facts) return std::nullopt;
  if (!letters_as_values)
    for (size_t i = 1; i < table.size(); i += 3)
      if (!is_digit(table[i])) return std::nullopt;
  const Reading answers = read_queries(body.substr(mark + 1), *facts);
  if (!answers) return std::nullopt;
  return std::string(mark + 1, '_') + *answers + "_";
}

/// A prompt up to a mark and an answer with a newline that `solve` makes of it.
template <class F>
Reading read_arrow(std::string_view body, char arrow, F&& solve) {
  const size_t mark = body.find(arrow);
  if (mark == body.npos) return std::nullopt;
  const Reading answer = solve(body.substr(0, mark));
  if (!answer) return std::nullopt;
  return std::string(mark + 1, '_') + *answer + "\n";
}

Reading solve_sums(std::string_view digits) {
  std::string sums;
  for (size_t i = 0; i < digits.size(); ++i) {
    int sum = 0;
    for (size_t j = 0; j <= i; ++j) sum += digits[j] - '0';
    sums += std::to_string(sum).back();
  }
  return sums;
}

Reading solve_sort(std::string_view digits) {
  const std::set<char> sorted(digits.begin(), digits.end());
  if (sorted.size() != digits.size()) return std::nullopt;
  return std::string(sorted.begin(), sorted.end());
}

/// Erases matched neighbours until none is left: what stays is open.
Reading solve_brackets(std::string_view prefix) {
  std::string left(prefix);
  for (bool found = true; found;) {
    found = false;
    for (std::string_view pair : {"()", "[]", "{}", "<>"})
      if (const size_t at = left.find(pair); at != left.npos) left.erase(at, 2), found = true;
  }
  std::string closing;
  for (const char c : left) {
    const size_t kind = std::string_view("([{<").find(c);
    if (kind == std::string_view::npos) return std::nullopt;
    closing.insert(0, 1, ")]}>"[kind]);
  }
  return closing;
}

Reading read_addition(std::string_view body) {
  if (body.size() != 9 || body[2] != '+' || body[5] != '=') return std::nullopt;
  const int sum = std::stoi(std::string(body.substr(0, 2))) + std::stoi(std::string(body.substr(3, 2)));
  return "______" + std::to_string(1000 + sum).substr(1) + "_";
}

Reading read_agreement(std::string_view body) {
  if (body.substr(0, 4) != "the " || body.back() != '.') return std::nullopt;
  const bool plural = body[body.find(' ', 4) - 1] == 's';
  const size_t end_of_stem = body.size() - (plural ? 1 : 2);
  std::string reading(body.size() + 1, '_');
  reading[end_of_stem] = plural ? '.' : 's';
  return reading;
}

/// `facts` collects the memorised facts: the same key has the same value everywhere.
Reading read_memorised(std::string_view body, std::map<std::string, std::string>& facts) {
  if (body.size() != 5 || body[2] != '=') return std::nullopt;
  const std::string value(body.substr(3));
  const auto [fact, is_new] = facts.emplace(std::string(body.substr(0, 2)), value);
  return "___" + fact->second + "_";
}

Reading read_document(char tag, std::string_view body, const Facts& header, std::map<std::string, std::string>& facts) {
  switch (tag) {
    case 'R':
      return read_table_and_queries(body, false);
    case 'P':
      return read_table_and_queries(body, true);
    case 'G': {
      const Reading answers = read_queries(body, header);
      return answers ? Reading(*answers + "_") : std::nullopt;
    }
    case 'C':
      return read_arrow(body, '>', [](std::string_view w) { return Reading(w); });
    case 'V':
      return read_arrow(body, '>', [](std::string_view w) { return Reading(std::string(w.rbegin(), w.rend())); });
    case 'M':
      return read_arrow(body, '>', solve_sums);
    case 'S':
      return read_arrow(body, '>', solve_sort);
    case 'B':
      return read_arrow(body, '|', solve_brackets);
    case 'A':
      return read_addition(body);
    case 'L':
      return read_agreement(body);
    case 'K':
      return read_memorised(body, facts);
    default:
      return std::nullopt;
  }
}

size_t skill_of(char tag) {
  for (size_t i = 0; i < corpus_skills().size(); ++i)
    if (corpus_skills()[i].tag == tag) return i;
  throw Error(fmt::format("no skill with tag {}", tag));
}

/// Reads a whole sequence and compares answers, marks and documents with what the generator says.
void check_sequence(const CorpusSequence& s, std::map<std::string, std::string>& facts) {
  SCOPED_TRACE(s.text);
  const size_t header_end = s.text.find('\n');
  ASSERT_EQ(s.text[0], 'F');
  const auto header = read_facts(std::string_view(s.text).substr(1, header_end - 1));
  ASSERT_TRUE(header && (header->size() == 3 || header->size() == 4));
  for (size_t i = 0; i <= header_end; ++i) ASSERT_EQ(s.answer[i], 0);
  size_t document = 0;
  for (size_t first = header_end + 1; first < s.text.size();) {
    const size_t end = s.text.find('\n', first);
    if (end == s.text.npos) break;
    const std::string line = s.text.substr(first, end - first);
    const Reading reading = read_document(line[0], std::string_view(line).substr(1), *header, facts);
    ASSERT_TRUE(reading) << line;
    const std::string whole = "_" + *reading;
    ASSERT_EQ(whole.size(), end + 1 - first) << line << " against " << whole;
    size_t answer_first = whole.size();
    for (size_t i = whole.size(); i-- > 0;) {
      EXPECT_EQ(s.answer[first + i] != 0, whole[i] != '_') << line << " at " << i;
      if (whole[i] == '_') continue;
      EXPECT_EQ(s.text[first + i], whole[i]) << line << " at " << i;
      answer_first = i;
    }
    ASSERT_LT(document, s.documents.size());
    const Document& d = s.documents[document++];
    EXPECT_EQ(size_t(d.skill), skill_of(line[0]));
    EXPECT_EQ(size_t(d.first), first);
    EXPECT_EQ(size_t(d.answer_first), first + answer_first);
    EXPECT_EQ(size_t(d.end), end + 1);
    first = end + 1;
  }
  EXPECT_EQ(document, s.documents.size());
}

TEST(Corpus, EveryAnswerFollowsFromTheTextBeforeIt) {
  const CorpusConfig config;
  std::map<std::string, std::string> facts;
  std::vector<int64_t> documents(corpus_skills().size());
  for (Split split : {Split::train, Split::validation, Split::validation_seen})
    for (int64_t index = 0; index < 3000; ++index) {
      const CorpusSequence s = make_sequence(config, split, index);
      ASSERT_EQ(s.text.size(), 129u);
      ASSERT_EQ(s.tokens.size(), 129u);
      ASSERT_EQ(s.answer.size(), 129u);
      for (size_t i = 0; i < 129; ++i) ASSERT_EQ(kCorpusSymbols[size_t(s.tokens[i])], s.text[i]);
      check_sequence(s, facts);
      if (HasFatalFailure() || HasNonfatalFailure()) return;
      for (const Document& d : s.documents) ++documents[size_t(d.skill)];
    }
  EXPECT_EQ(facts.size(), 400u);
  for (size_t i = 0; i < documents.size(); ++i) EXPECT_GT(documents[i], 3000) << corpus_skills()[i].name;
}

TEST(Corpus, SkillsComeByTheirWeights) {
  CorpusConfig config;
  config.characters = 20000;  // long: hardly a document is cut off, so the shares are the weights
  std::vector<double> counts(corpus_skills().size());
  double documents = 0, weights = 0;
  for (int64_t index = 0; index < 10; ++index)
    for (const Document& d : make_sequence(config, Split::train, index).documents)
      ++counts[size_t(d.skill)], ++documents;
  for (const double w : config.skill_weights) weights += w;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double share = config.skill_weights[i] / weights;
    // five standard deviations of a binomial
    EXPECT_NEAR(counts[i], documents * share, 5 * std::sqrt(documents * share * (1 - share)))
        << corpus_skills()[i].name;
  }
}

TEST(Corpus, WeightsOfTheConfigHold) {
  CorpusConfig config;
  std::fill(config.skill_weights.begin(), config.skill_weights.end(), 0.0);
  config.skill_weights[skill_of('S')] = 1;
  for (int64_t index = 0; index < 100; ++index)
    for (const Document& d : make_sequence(config, Split::train, index).documents)
      ASSERT_EQ(size_t(d.skill), skill_of('S'));
}

/// The pairs of addends of `count` sequences, smaller first.
std::set<std::pair<int, int>> added_pairs(const CorpusConfig& config, Split split, int64_t count) {
  std::set<std::pair<int, int>> pairs;
  for (int64_t index = 0; index < count; ++index) {
    const std::string text = make_sequence(config, split, index).text;
    for (size_t at = text.find('+'); at != text.npos; at = text.find('+', at + 1)) {
      if (at + 3 > text.size()) break;
      const int a = std::stoi(text.substr(at - 2, 2)), b = std::stoi(text.substr(at + 1, 2));
      pairs.emplace(std::min(a, b), std::max(a, b));
    }
  }
  return pairs;
}

TEST(Corpus, HeldOutAdditionsAreNeverTrained) {
  CorpusConfig config;
  std::fill(config.skill_weights.begin(), config.skill_weights.end(), 0.0);
  config.skill_weights[skill_of('A')] = 1;
  const auto train = added_pairs(config, Split::train, 6000);  // about 14 times each pair
  const auto held_out = added_pairs(config, Split::validation, 600);
  const auto seen = added_pairs(config, Split::validation_seen, 600);
  for (const auto& pair : held_out) EXPECT_FALSE(train.count(pair)) << pair.first << "+" << pair.second;
  EXPECT_TRUE(std::includes(train.begin(), train.end(), seen.begin(), seen.end()));
  EXPECT_EQ(train.size() + held_out.size(), 5050u);  // all unordered pairs of 100
  // 5 % of 5050 within five standard deviations of a binomial
  EXPECT_NEAR(double(held_out.size()), 252.5, 5 * std::sqrt(5050 * 0.05 * 0.95));
}

TEST(Corpus, SplitsAndSequencesDiffer) {
  const CorpusConfig config;
  std::set<std::string> texts;
  for (Split split : {Split::train, Split::validation, Split::validation_seen})
    for (int64_t index = 0; index < 1000; ++index) texts.insert(make_sequence(config, split, index).text);
  EXPECT_EQ(texts.size(), 3000u);
  CorpusConfig other = config;
  other.seed = 2;
  EXPECT_NE(make_sequence(other, Split::train, 0).text, make_sequence(config, Split::train, 0).text);
}

TEST(Corpus, TheSameBytesForever) {
  const CorpusConfig config;
  uint64_t digest = 0xcbf29ce484222325;  // FNV-1a of text and answer marks
  for (int64_t index = 0; index < 1000; ++index) {
    const CorpusSequence s = make_sequence(config, Split::train, index);
    for (size_t i = 0; i < s.text.size(); ++i)
      digest = (digest ^ uint64_t(s.text[i] | s.answer[i] << 7)) * 0x100000001b3;
  }
  EXPECT_EQ(digest, 16831687916822575398ull);
}

TEST(Corpus, CountsDocumentsThatAreWhollyRight) {
  const CorpusConfig config;
  for (int64_t index = 0; index < 50; ++index) {
    const CorpusSequence s = make_sequence(config, Split::validation, index);
    std::vector<SkillCount> perfect(corpus_skills().size());
    std::vector<int32_t> predicted(s.tokens.begin() + 1, s.tokens.end());
    count_right(perfect, s, predicted);
    int64_t total = 0;
    for (const SkillCount& c : perfect) {
      EXPECT_EQ(c.right, c.total);
      total += c.total;
    }
    EXPECT_EQ(total, int64_t(s.documents.size()));

    for (size_t n = 0; n < predicted.size(); ++n) {
      std::vector<int32_t> slip = predicted;
      slip[n] = (slip[n] + 1) % 64;
      std::vector<SkillCount> counts(corpus_skills().size());
      count_right(counts, s, slip);
      // The slip costs the document in which the predicted character n + 1 is an answer, and no other.
      for (size_t k = 0; k < counts.size(); ++k) {
        int64_t lost = 0;
        for (const Document& d : s.documents)
          lost += size_t(d.skill) == k && size_t(d.first) <= n + 1 && n + 1 < size_t(d.end) && s.answer[n + 1];
        EXPECT_EQ(counts[k].right, perfect[k].right - lost);
        EXPECT_EQ(counts[k].total, perfect[k].total);
      }
    }
  }
}

TEST(Corpus, ShardIsTheSequences) {
  const CorpusConfig config;
  const TokenShard shard = corpus_shard(config, Split::train, 5, 3, 0.15f);
  ASSERT_EQ(shard.sequence_length, 128);
  ASSERT_EQ(shard.sequences(), 3);
  ASSERT_EQ(shard.segment_length.size(), 3u);
  for (size_t s = 0; s < 3; ++s) {
    const CorpusSequence sequence = make_sequence(config, Split::train, 5 + int64_t(s));
    EXPECT_EQ(shard.segment_length[s], 128);
    EXPECT_EQ(shard.segment_next[s], sequence.tokens[128]);
    for (size_t n = 0; n < 128; ++n) {
      EXPECT_EQ(shard.tokens[s * 128 + n], sequence.tokens[n]);
      EXPECT_EQ(shard.weights[s * 128 + n], sequence.answer[n + 1] ? 1.0f : 0.15f);
    }
  }
}

TEST(Corpus, TokenizerReadsItsOwnFiles) {
  const Tokenizer tokenizer =
      parse_tokenizer(corpus_tokenizer_json(), corpus_tokenizer_config_json(), "the corpus's tokenizer");
  ASSERT_EQ(tokenizer.tokens.size(), 64u);
  EXPECT_EQ(tokenizer.eos_id, 0);
  for (int64_t index = 0; index < 20; ++index) {
    const CorpusSequence s = make_sequence({}, Split::train, index);
    EXPECT_EQ(encode(tokenizer, s.text), s.tokens);
    EXPECT_EQ(decode(tokenizer, s.tokens), s.text);
  }
  EXPECT_THROW(encode(tokenizer, "Hello"), Error);
}

TEST(Corpus, RefusesConfigsOutOfRange) {
  const auto refuse = [](auto&& change) {
    CorpusConfig config;
    change(config);
    try {
      make_sequence(config, Split::train, 0);
      ADD_FAILURE() << "not refused";
    } catch (const Error& e) {
      EXPECT_EQ(e.failure, Failure::bad_input) << e.what();
    }
  };
  refuse([](CorpusConfig& c) { c.characters = 10; });
  refuse([](CorpusConfig& c) { c.facts = 0; });
  refuse([](CorpusConfig& c) { c.facts = 677; });
  refuse([](CorpusConfig& c) { c.held_out = 0; });
  refuse([](CorpusConfig& c) { c.held_out = std::numeric_limits<double>::quiet_NaN(); });
  refuse([](CorpusConfig& c) { c.skill_weights.pop_back(); });
  refuse([](CorpusConfig& c) { c.skill_weights[0] = -1; });
  refuse([](CorpusConfig& c) { std::fill(c.skill_weights.begin(), c.skill_weights.end(), 0.0); });
}

TEST(Corpus, AllPossibleFactsCanBeAsked) {
  CorpusConfig config;
  config.facts = 676;
  std::fill(config.skill_weights.begin(), config.skill_weights.end(), 0.0);
  config.skill_weights[skill_of('K')] = 1;
  std::map<std::string, std::string> facts;
  for (int64_t index = 0; index < 1000; ++index) check_sequence(make_sequence(config, Split::train, index), facts);
  EXPECT_EQ(facts.size(), 676u);
}

}  // namespace
}  // namespace tangram
