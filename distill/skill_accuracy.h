#pragma once
#include <vector>

#include "blocks/model.h"
#include "distill/corpus.h"

namespace tangram {

/// How many documents of each skill a model answers right, in the order of corpus_skills(): all answer tokens are its
/// greedy ones. `sequences` sequences of the split from index `first` on.
std::vector<SkillCount> skill_accuracy(const Model& model, const CorpusConfig& corpus, Split split, int64_t first,
                                       int64_t sequences, Context& ctx);

}  // namespace tangram
