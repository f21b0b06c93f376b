#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "distill/corpus.h"

namespace tangram {

/// Random numbers one after another: the draws of one sequence.
struct Draws {
  uint64_t seed, stream;
  uint64_t index = 0;

  int below(int n);                                 ///< uniform in 0 to n - 1
  double uniform();                                 ///< uniform in [0, 1)
  std::vector<int> distinct(int count, int among);  ///< `count` different numbers below `among`, in random order
};

/// A letter that stands for a digit: `k4`.
struct Fact {
  char letter, digit;
};

/// What a document is made from, and the text so far with its answer marks.
struct Scene {
  const CorpusConfig& config;
  Split split;
  Draws& draws;
  std::vector<Fact> header;  ///< the facts at the start of the sequence
  std::string text;
  std::vector<uint8_t> answer;

  void add_prompt(std::string_view characters);
  void add_answer(std::string_view characters);  ///< these follow from the text before them
};

/// One kind of task with exactly one right answer.
struct Skill {
  char tag;
  std::string_view name;
  double weight;  ///< relative share of the documents, unless the config says otherwise
  /// Appends what follows the tag; the final newline too if it is an answer, else it is added.
  void (*make)(Scene&);
};

/// All skills. To add one, add an entry, and its tag to kCorpusSymbols.
std::span<const Skill> corpus_skills();

}  // namespace tangram
