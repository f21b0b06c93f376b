#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "distill/token_shard.h"

namespace tangram {

/// The vocabulary of the generated corpus: the token of a character is its place. A newline ends every document; the
/// capitals say what skill it is of. The last character is in no document: it makes the vocabulary a round 64.
inline constexpr std::string_view kCorpusSymbols = "\n abcdefghijklmnopqrstuvwxyz0123456789+=>?|.()[]{}<FRGCVAMSBLKP-";
static_assert(kCorpusSymbols.size() == 64);

/// The `tokenizer.json` of this vocabulary (BPE without merges: one token a character), and the `tokenizer_config.json`
/// beside it, by which a newline ends a generated text.
std::string corpus_tokenizer_json();
std::string corpus_tokenizer_config_json();

/// The weights that the table of skills gives (distill/skills.h), in its order.
std::vector<double> default_skill_weights();

/// What the corpus is made from. A sequence is a pure function of this, the split and its index.
struct CorpusConfig {
  uint64_t seed = 1;
  int64_t characters = 129;  ///< of a sequence: the inputs, and one more that is only a target
  int64_t facts = 400;       ///< that the teacher has to know by heart (skill K), of 676 possible
  double held_out = 0.05;    ///< part of the pairs of addends (skill A) that training never shows, in neither order
  std::vector<double> skill_weights = default_skill_weights();  ///< relative shares of the documents, one a skill
};

/// Where a sequence comes from. The splits share the memorised facts and nothing else.
enum class Split : uint8_t {
  train,            ///< additions of pairs that are not held out
  validation,       ///< additions of held-out pairs only
  validation_seen,  ///< fresh sequences with the additions of training
};

/// A document of a sequence: characters [first, end). Those in [answer_first, end) that the sequence marks as answers
/// follow from what stands before them; the document is right if all of them are.
struct Document {
  int32_t skill;  ///< its place in corpus_skills()
  int32_t first, answer_first, end;
};

struct CorpusSequence {
  std::string text;                 ///< `characters` long; the last document is cut off where it has no room
  std::vector<int32_t> tokens;      ///< (characters)
  std::vector<uint8_t> answer;      ///< (characters) 1: follows from what stands before it
  std::vector<Document> documents;  ///< the whole ones
};

/// Sequence `index` of a split: a header of 3 or 4 facts, `Fk4 b7 z1`, then documents drawn by weight until it is full.
/// Throws Error (bad_input) if the config is out of range.
CorpusSequence make_sequence(const CorpusConfig& config, Split split, int64_t index);

/// Sequences [first, first + count) of a split as training data, one segment each, sequence_length = characters - 1.
/// A token counts `prompt_weight` in the loss, or 1 if it is (part of) an answer.
TokenShard corpus_shard(const CorpusConfig& config, Split split, int64_t first, int64_t count, float prompt_weight);

struct SkillCount {
  int64_t right = 0, total = 0;  ///< documents
};

/// Adds the documents of a sequence to the counts, one a skill. predicted[n] is the most probable token after
/// tokens[0 .. n], for n up to characters - 2. Since the true answer stands before each further token of it, all answer
/// tokens are right exactly if greedy decoding gives the answer.
void count_right(std::span<SkillCount> counts, const CorpusSequence& sequence, std::span<const int32_t> predicted);

}  // namespace tangram
