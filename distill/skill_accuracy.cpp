#include "distill/skill_accuracy.h"

#include "distill/skills.h"
#include "kernels/head_loss.h"
#include "kernels/transfer.h"

namespace tangram {

static constexpr int64_t kSequencesAtOnce = 32;

std::vector<SkillCount> skill_accuracy(const Model& model, const CorpusConfig& corpus, Split split, int64_t first,
                                       int64_t sequences, Context& ctx) {
  std::vector<SkillCount> counts(corpus_skills().size());
  const int64_t T = corpus.characters - 1;
  for (int64_t begin = first; begin < first + sequences; begin += kSequencesAtOnce) {
    const int64_t count = std::min(kSequencesAtOnce, first + sequences - begin);
    std::vector<CorpusSequence> batch;
    std::vector<int32_t> tokens;
    for (int64_t s = begin; s < begin + count; ++s) {
      batch.push_back(make_sequence(corpus, split, s));
      tokens.insert(tokens.end(), batch.back().tokens.begin(), batch.back().tokens.begin() + T);
    }
    ArenaScope scope(ctx.scratch);
    const std::vector<int32_t> lengths(static_cast<size_t>(count), static_cast<int32_t>(T));
    const SequenceBatch rows(model.config, lengths, {}, ctx.scratch, ctx);
    const Tensor hidden = ctx.scratch.tensor(rows.tokens(), model.config.hidden_size, model.dtype);
    const Tensor greedy = ctx.scratch.tensor(1, rows.tokens(), DType::i32);
    model_hidden(hidden, model, tokens, rows.view(), ctx);
    head_loss_forward({.cross_entropy = {}, .kl = {}, .greedy = greedy, .teacher_rank = {}},
                      {.student = {hidden, model.head}, .teacher = {}, .targets = {}}, ctx);
    const HostView ids(greedy, ctx);
    for (int64_t s = 0; s < count; ++s)
      count_right(counts, batch[static_cast<size_t>(s)], {ids.as<int32_t>() + s * T, static_cast<size_t>(T)});
  }
  return counts;
}

}  // namespace tangram
