#pragma once
#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "blocks/library.h"

namespace tangram {

/// What is recorded of a student beside its teacher, each a mean over tokens.
enum class Metric : uint8_t {
  kl_divergence,  ///< KL(teacher || student) of the next-token distributions, nats
  lm_loss,        ///< cross-entropy of the true next token, nats
  top_1,          ///< share of tokens whose greedy teacher token is the student's first,
  top_5,          ///<   among its first 5,
  top_10,         ///<   among its first 10
  hidden_cosine,  ///< 1 - cos of the hidden states before the head
};
inline constexpr size_t kMetricCount = 6;
inline constexpr std::array<std::string_view, kMetricCount> kMetricNames = {
    "kl_divergence", "lm_loss", "top_1", "top_5", "top_10", "hidden_cosine"};
using MetricValues = std::array<double, kMetricCount>;

/// Packed sequences of equal length to score on.
struct ScoringBatch {
  std::span<const int32_t> tokens;   ///< (N)
  std::span<const int32_t> targets;  ///< (N)  next token, < 0 where there is none
  std::span<const int32_t> lengths;  ///< of the segments that attention does not cross; their sum is N
  int64_t sequence_length = 0;       ///< N is a multiple; a sequence is the unit of the standard error
};

/// Scores of a batch for each sequence: means over its tokens (over those with a target for lm_loss).
using SequenceMetrics = std::vector<MetricValues>;

/// Replace-one scoring (Bercovich et al. 2024, arXiv:2411.19146, section 4): a model with one replacement, beside the
/// teacher. The model is the teacher itself, or a student in whose context replacements are scored.
///
/// The residual stream of the model before and inside every layer is computed once a batch, so a replacement costs its
/// own layer and those behind it. The products have the shapes of a whole forward pass, so a score equals that of the
/// model assembled naively, bit for bit.
class ReplaceOneScorer {
 public:
  /// Batches of at most `batch_tokens` tokens.
  ReplaceOneScorer(const Model& teacher, int64_t batch_tokens, Context& ctx);
  ReplaceOneScorer(const Model& teacher, const Model& model, int64_t batch_tokens, Context& ctx);

  /// Runs teacher and model on a batch. The batch's memory must stay until the next call.
  void start_batch(const ScoringBatch& batch);

  int64_t memory_bytes() const { return memory_.used_bytes(); }  ///< after start_batch

  SequenceMetrics teacher_metrics();
  /// Of a replacement in the teacher; the model must have a block for every layer.
  SequenceMetrics score(const LibraryEntry& entry);
  /// Of the model with its subblocks [first, last) exchanged for others, in the order in which they run (attention and
  /// ffn of block 0, of block 1, …).
  SequenceMetrics score(size_t first, size_t last, std::span<const SubblockWeights> instead);

 private:
  SequenceMetrics measure(Tensor hidden);

  const Model &teacher_, &model_;
  Context& ctx_;
  Arena memory_;
  std::vector<Tensor> residual_;  // (N, H) before each subblock of the model
  Tensor hidden_, x_;             // the teacher's and a student's hidden state before the head
  ScoringBatch batch_;
  std::optional<SequenceBatch> sequences_;
};

/// Metrics of a whole student (of `hidden` states) beside its teacher, for each sequence of the batch.
///
///   student_hidden, teacher_hidden  (N, H)  before the head
SequenceMetrics sequence_metrics(Tensor student_hidden, const Model& student, Tensor teacher_hidden,
                                 const Model& teacher, const ScoringBatch& batch, Context& ctx);

/// Mean over sequences and its standard error, s / sqrt(S).
struct MeanAndError {
  double mean = 0, standard_error = 0;
};
MeanAndError mean_and_error(std::span<const double> values);

}  // namespace tangram
