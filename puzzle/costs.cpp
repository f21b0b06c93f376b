#include "puzzle/costs.h"

#include <algorithm>

namespace tangram {

double weight_bytes(const Choice& choice, const ModelConfig& config, DType precision) {
  if (choice.variant->no_op) return 0;
  return double((parameter_count(choice, config) + config.hidden_size) * size_of(precision));
}

double kv_cache_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario) {
  const Cost cost = choice.variant->cost({config, choice.size});
  const int64_t tokens = std::min(scenario.input_tokens + scenario.output_tokens, cost.kv_tokens_at_most);
  return double(scenario.concurrency) * double(tokens) * double(cost.kv_elements * size_of(scenario.precision));
}

double outside_parameters(const ModelConfig& config) {
  const int64_t matrices = config.tie_word_embeddings ? 1 : 2;
  return double((matrices * config.vocab_size + 1) * config.hidden_size);
}

int64_t tokens_at_once(const Scenario& scenario, int64_t at_most) {
  const int64_t prompts =
      std::clamp<int64_t>(at_most / std::max<int64_t>(scenario.input_tokens, 1), 1, scenario.concurrency);
  return std::max(scenario.concurrency, prompts * scenario.input_tokens);
}

double workspace_bytes(const ModelConfig& config, const Scenario& scenario, int64_t prefill_tokens_at_most) {
  int64_t widest = 0;
  for (Subblock s : {Subblock::attention, Subblock::ffn}) {
    const Choice choice = teacher_choice(s, config);
    int64_t width = projection_size(choice, config);
    for (const SavedSpec& saved : choice.variant->saved({config, choice.size})) width += saved.cols;
    widest = std::max(widest, width);
  }
  const int64_t per_token = (3 * config.hidden_size + widest) * size_of(scenario.precision);  // stream, input, output
  const int64_t logits = scenario.concurrency * config.vocab_size * size_of(DType::f32);
  return double(tokens_at_once(scenario, prefill_tokens_at_most) * per_token + logits);
}

}  // namespace tangram
