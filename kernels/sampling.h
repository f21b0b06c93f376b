#pragma once
#include "kernels/tensor.h"

namespace tangram {

/// How the next token is drawn from logits l.
struct SamplingOptions {
  float temperature = 1;  ///< p = softmax(l / temperature); 0: always the largest logit, ties to the lowest id
  int64_t top_k = 0;      ///< only the k largest logits; 0: all
  double top_p = 1;       ///< of those, the fewest of the largest whose probabilities sum to top_p at least
};

/// The id of the next token: of those that the options leave, in the order of ids, the first at which the sum of the
/// probabilities exceeds `uniform`.
///
///   logits   (1, V)  f32   -infinity forbids a token
///   uniform                in [0, 1), from random_uniform: the result is a pure function of the arguments
///
/// Equal logits rank by their ids, the lower first. Throws Error if a logit is NaN or +infinity, if all are -infinity,
/// or if an option is out of range.
int32_t sample_token(Tensor logits, const SamplingOptions& options, double uniform);

}  // namespace tangram
