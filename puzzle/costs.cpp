#include "puzzle/costs.h"

#include <algorithm>

#include "blocks/kv_cache.h"

namespace tangram {
namespace {

// The largest part when whole units are dealt out to devices.
int64_t part_of(int64_t size, int64_t unit, int64_t devices) { return ceil_div(ceil_div(size, unit), devices) * unit; }

Cost cost_of(const Choice& choice, const ModelConfig& config) { return choice.variant->cost({config, choice.size}); }

}  // namespace

std::vector<MatrixPart> device_matrices(const Choice& choice, const ModelConfig& config, int64_t tensor_parallel) {
  std::vector<MatrixPart> parts;
  if (choice.variant->no_op) return parts;
  const int64_t unit = cost_of(choice, config).kv_elements > 0 ? config.head_dim : 1;
  for (const ParamSpec& p : choice.variant->params({config, choice.size}))
    parts.push_back({.rows = p.split == SplitAxis::rows ? part_of(p.rows, unit, tensor_parallel) : p.rows,
                     .cols = p.split == SplitAxis::cols ? part_of(p.cols, unit, tensor_parallel) : p.cols,
                     .input = p.input});
  return parts;
}

int64_t device_kv_elements(const Choice& choice, const ModelConfig& config, int64_t tensor_parallel) {
  const int64_t elements = cost_of(choice, config).kv_elements;
  return elements == 0 ? 0 : 2 * part_of(elements / 2, config.head_dim, tensor_parallel);
}

double subblock_parameters(const Choice& choice, const ModelConfig& config) {
  return choice.variant->no_op ? 0 : double(parameter_count(choice, config) + config.hidden_size);
}

double model_parameters(const Architecture& architecture, const ModelConfig& config) {
  double parameters = outside_parameters(config);
  for (const BlockChoice& block : architecture)
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      parameters += subblock_parameters(block.of(s), config);
  return parameters;
}

double weight_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario) {
  if (choice.variant->no_op) return 0;
  double bytes = double(config.hidden_size * scenario.activation_bytes());
  for (const MatrixPart& m : device_matrices(choice, config, scenario.tensor_parallel))
    bytes += double(m.rows * m.cols * size_of(scenario.precision));
  return bytes;
}

double kv_cache_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario) {
  const int64_t elements = device_kv_elements(choice, config, scenario.tensor_parallel);
  if (elements == 0) return 0;
  const int64_t tokens =
      kept_tokens(scenario.input_tokens + scenario.output_tokens, cost_of(choice, config).kv_tokens_at_most).rows;
  return double(scenario.concurrency) * double(tokens) * double(elements * size_of(scenario.kv_precision()));
}

double kv_bytes_per_token(const Architecture& architecture, const ModelConfig& config, Precision precision) {
  double bytes = 0;
  for (const BlockChoice& block : architecture)
    bytes += double(cost_of(block.attention, config).kv_elements * size_of(precision));
  return bytes;
}

double outside_parameters(const ModelConfig& config) {
  const int64_t matrices = config.tie_word_embeddings ? 1 : 2;
  return double((matrices * config.vocab_size + 1) * config.hidden_size);
}

double outside_bytes(const ModelConfig& config, const Scenario& scenario) {
  const int64_t matrices = config.tie_word_embeddings ? 1 : 2;
  const int64_t rows = matrices * part_of(config.vocab_size, 1, scenario.tensor_parallel) + 1;
  return double(rows * config.hidden_size * scenario.activation_bytes());
}

int64_t tokens_at_once(const Scenario& scenario, int64_t at_most) {
  const int64_t prompts =
      std::clamp<int64_t>(at_most / std::max<int64_t>(scenario.input_tokens, 1), 1, scenario.concurrency);
  return std::max(scenario.concurrency, prompts * scenario.input_tokens);
}

double workspace_bytes(const Choice& choice, const ModelConfig& config, const Scenario& scenario,
                       int64_t prefill_tokens_at_most) {
  int64_t width = 0;
  if (!choice.variant->no_op) {
    width = projection_size(choice, config);
    for (const SavedSpec& saved : choice.variant->saved({config, choice.size})) width += saved.cols;
  }
  const int64_t per_token = (3 * config.hidden_size + ceil_div(width, scenario.tensor_parallel)) *
                            scenario.activation_bytes();  // stream, input, output
  const int64_t logits =
      scenario.concurrency * ceil_div(config.vocab_size, scenario.tensor_parallel) * size_of(DType::f32);
  return double(tokens_at_once(scenario, prefill_tokens_at_most) * per_token + logits);
}

double workspace_bytes(const Architecture& architecture, const ModelConfig& config, const Scenario& scenario,
                       int64_t prefill_tokens_at_most) {
  double most = 0;
  for (const BlockChoice& block : architecture)
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      most = std::max(most, workspace_bytes(block.of(s), config, scenario, prefill_tokens_at_most));
  return most;
}

}  // namespace tangram
