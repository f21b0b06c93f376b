#include "distill/skills.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "distill/permutation.h"
#include "kernels/random.h"

namespace tangram {

int Draws::below(int n) { return static_cast<int>(random_below(uint64_t(n), seed, stream, index++)); }
double Draws::uniform() { return random_uniform(seed, stream, index++); }

std::vector<int> Draws::distinct(int count, int among) {
  std::vector<int> numbers(static_cast<size_t>(among));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (int i = 0; i < count; ++i) std::swap(numbers[size_t(i)], numbers[size_t(i + below(among - i))]);
  numbers.resize(size_t(count));
  return numbers;
}

void Scene::add_prompt(std::string_view characters) {
  text += characters;
  answer.resize(text.size(), 0);
}

void Scene::add_answer(std::string_view characters) {
  text += characters;
  answer.resize(text.size(), 1);
}

namespace {

// Streams below this are sequences; see make_sequence.
constexpr uint64_t kFixedStreams = uint64_t{1} << 63;
constexpr uint64_t kFactKeys = kFixedStreams, kFactValues = kFixedStreams + 1, kHeldOut = kFixedStreams + 2;
constexpr int kLetterPairs = 26 * 26;

std::string letter(int i) { return {static_cast<char>('a' + i)}; }
std::string digit(int i) { return {static_cast<char>('0' + i)}; }
std::string letter_pair(int64_t i) { return letter(int(i / 26)) + letter(int(i % 26)); }

/// `count` letters, repeats allowed.
std::string word(Draws& draws, int count) {
  std::string w;
  for (int i = 0; i < count; ++i) w += letter(draws.below(26));
  return w;
}

void ask(Scene& s, const Fact& fact) {
  s.add_prompt({&fact.letter, 1});
  s.add_answer({&fact.digit, 1});
}

// k4 b7?b7k4: pairs of the document itself.
void recall_near(Scene& s) {
  const int count = 2 + s.draws.below(4);
  std::vector<Fact> facts;
  for (const int l : s.draws.distinct(count, 26)) {
    facts.push_back({static_cast<char>('a' + l), static_cast<char>('0' + s.draws.below(10))});
    s.add_prompt(facts.size() > 1 ? " " : "");
    s.add_prompt({&facts.back().letter, 1});
    s.add_prompt({&facts.back().digit, 1});
  }
  s.add_prompt("?");
  for (const int f : s.draws.distinct(2, count)) ask(s, facts[size_t(f)]);
}

// b7k4z1: pairs of the sequence's header.
void recall_far(Scene& s) {
  for (const int f : s.draws.distinct(3, static_cast<int>(s.header.size()))) ask(s, s.header[size_t(f)]);
}

void copy_word(Scene& s) {
  const std::string w = word(s.draws, 3 + s.draws.below(6));
  s.add_prompt(w + ">");
  s.add_answer(w + "\n");
}

void reverse_word(Scene& s) {
  const std::string w = word(s.draws, 2 + s.draws.below(5));
  s.add_prompt(w + ">");
  s.add_answer(std::string(w.rbegin(), w.rend()) + "\n");
}

// By the pair without its order, so that no sum is known from its mirror image.
bool is_held_out(const CorpusConfig& config, int a, int b) {
  const auto pair = static_cast<uint64_t>(std::min(a, b) * 100 + std::max(a, b));
  return random_uniform(config.seed, kHeldOut, pair) < config.held_out;
}

// 37+48=085
void add_numbers(Scene& s) {
  const bool want_held_out = s.split == Split::validation;
  int a, b;
  do a = s.draws.below(100), b = s.draws.below(100);
  while (is_held_out(s.config, a, b) != want_held_out);
  s.add_prompt(fmt::format("{:02}+{:02}=", a, b));
  s.add_answer(fmt::format("{:03}", a + b));
}

// 385>316: running sums, last digits only.
void running_sums(Scene& s) {
  const int count = 3 + s.draws.below(3);
  std::string sums;
  int sum = 0;
  for (int i = 0; i < count; ++i) {
    const int d = s.draws.below(10);
    s.add_prompt(digit(d));
    sum = (sum + d) % 10;
    sums += digit(sum);
  }
  s.add_prompt(">");
  s.add_answer(sums + "\n");
}

void sort_digits(Scene& s) {
  std::string digits;
  for (const int d : s.draws.distinct(3 + s.draws.below(4), 10)) digits += digit(d);
  s.add_prompt(digits + ">");
  std::sort(digits.begin(), digits.end());
  s.add_answer(digits + "\n");
}

// ([]{|}): what closes the open brackets.
void close_brackets(Scene& s) {
  static constexpr std::string_view kOpen = "([{<", kClose = ")]}>";
  std::string open;  // what would close them, innermost last
  const int count = 4 + s.draws.below(7);
  for (int i = 0; i < count; ++i) {
    if (open.empty() || s.draws.uniform() < 0.6) {
      const size_t kind = size_t(s.draws.below(4));
      s.add_prompt(kOpen.substr(kind, 1));
      open += kClose[kind];
    } else {
      s.add_prompt({&open.back(), 1});
      open.pop_back();
    }
  }
  s.add_prompt("|");
  s.add_answer(std::string(open.rbegin(), open.rend()) + "\n");
}

// the cats near the dog run.: the verb agrees with the first noun. No verb begins another, so behind its stem there is
// nothing left to guess but "s" or ".".
void agreement(Scene& s) {
  static constexpr std::string_view kNouns[] = {"cat", "dog", "cow", "hen", "pig", "owl", "bee", "ant"};
  static constexpr std::string_view kVerbs[] = {"run", "sing", "jump", "hop", "eat", "nap"};
  const int attractors = s.draws.below(3);
  bool singular = false;
  for (int i = 0; i <= attractors; ++i) {
    const bool plural = s.draws.below(2) == 1;
    if (i == 0) singular = !plural;
    s.add_prompt(i == 0 ? "the " : " near the ");
    s.add_prompt(kNouns[s.draws.below(std::size(kNouns))]);
    s.add_prompt(plural ? "s" : "");
  }
  s.add_prompt(" ");
  s.add_prompt(kVerbs[s.draws.below(std::size(kVerbs))]);
  s.add_answer(singular ? "s" : ".");
  s.add_prompt(singular ? "." : "");
}

// qo=oc: a fixed table that stands in no prompt.
void memorised_fact(Scene& s) {
  const int fact = s.draws.below(static_cast<int>(s.config.facts));
  s.add_prompt(letter_pair(permuted(fact, kLetterPairs, s.config.seed, kFactKeys)) + "=");
  s.add_answer(letter_pair(int64_t(random_below(kLetterPairs, s.config.seed, kFactValues, uint64_t(fact)))));
}

// a4 ba cb?c4: a letter is a digit, or what an earlier letter is.
void pointer(Scene& s) {
  const int count = 2 + s.draws.below(3);
  std::vector<Fact> facts;
  for (const int l : s.draws.distinct(count, 26)) {
    s.add_prompt(facts.empty() ? "" : " ");
    s.add_prompt(letter(l));
    if (facts.empty() || s.draws.below(2) == 0) {
      const std::string value = digit(s.draws.below(10));
      s.add_prompt(value);
      facts.push_back({static_cast<char>('a' + l), value[0]});
    } else {
      const Fact& earlier = facts[size_t(s.draws.below(static_cast<int>(facts.size())))];
      s.add_prompt({&earlier.letter, 1});
      facts.push_back({static_cast<char>('a' + l), earlier.digit});
    }
  }
  s.add_prompt("?");
  ask(s, facts[size_t(s.draws.below(count))]);
}

}  // namespace

std::span<const Skill> corpus_skills() {
  static constexpr Skill kSkills[] = {
      {'R', "recall near", 3, recall_near}, {'G', "recall far", 3, recall_far},
      {'C', "copy", 2, copy_word},          {'V', "reverse", 2, reverse_word},
      {'A', "addition", 4, add_numbers},    {'M', "running sums", 3, running_sums},
      {'S', "sort", 2, sort_digits},        {'B', "brackets", 2, close_brackets},
      {'L', "agreement", 2, agreement},     {'K', "memorised facts", 3, memorised_fact},
      {'P', "pointers", 2, pointer},
  };
  return kSkills;
}

}  // namespace tangram
