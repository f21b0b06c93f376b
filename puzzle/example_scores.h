#pragma once
#include <span>

#include "puzzle/score_table.h"

namespace tangram {

/// Scores of a teacher that nobody has scored: for plans and benchmarks, which need their structure and not their
/// values. Deterministic in its arguments. Every layer has the teacher's own subblocks and all of `attention` and `ffn`
/// (plain variants), with one metric, kl_divergence, 0 for the teacher's own:
///
///   sensitivity of the layer * damage of the variant * exp(normal / 10)
///
/// as published libraries of 80 layers have it (Bercovich et al. 2024, arXiv:2411.19146): layers 0.2 to 0.53 of the
/// depth are the most sensitive and those from 0.56 to 0.88 the least, by more than ten; the first layer, the last and
/// one in forty others are two to three orders of magnitude worse than their neighbours. Damage is convex in what is
/// saved, whole attentions cost about as much as four fifths of an FFN, whole FFNs several times more, and the noise of
/// training makes some narrower variant better than a wider one.
ScoreTable example_scores(const ModelConfig& config, std::span<const Choice> attention, std::span<const Choice> ffn,
                          uint64_t seed);

/// The paper's search space for a teacher: attention with a half, a quarter, … of its KV heads, linear and no_op; FFNs
/// of 87, 75, 50, 25, 20 and 10 % of its width, linear and no_op.
std::vector<Choice> published_attention(const ModelConfig& config);
std::vector<Choice> published_ffn(const ModelConfig& config);

}  // namespace tangram
