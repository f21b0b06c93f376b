#include "puzzle/example_scores.h"

#include <algorithm>
#include <cmath>

#include "kernels/random.h"

namespace tangram {
namespace {

constexpr double kNoise = 0.1;  // of a score's logarithm

// Along the depth: falling from the first layers to a plateau of sensitive ones, then a long cheap part, rising to the
// last layer. Outliers stand on top.
double sensitivity(int64_t layer, int64_t layers, uint64_t seed) {
  const double depth = double(layer) / double(std::max<int64_t>(layers - 1, 1));
  const auto step = [&](double at) { return 1 / (1 + std::exp((at - depth) / 0.02)); };
  const double smooth = 0.25 + 0.75 * (step(0.2) - step(0.55)) - 0.19 * (step(0.56) - step(0.88)) + 0.3 * step(0.95);
  const bool outlier = layer == 0 || layer + 1 == layers || random_uniform(seed, 1, uint64_t(layer)) < 1 / 40.0;
  const double worse = outlier ? std::pow(10, 2 + random_uniform(seed, 2, uint64_t(layer))) : 1;
  return smooth * worse * std::exp(0.4 * random_normal(seed, 3, uint64_t(layer)));
}

// Of one variant in a layer of sensitivity 1, in nats.
double damage(const Choice& choice, const ModelConfig& config) {
  const bool is_attention = choice.variant->subblock == Subblock::attention;
  if (choice.variant->no_op) return is_attention ? 0.30 : 2.5;
  if (choice.is("linear")) return is_attention ? 0.25 : 1.0;
  const double full = double(is_attention ? config.num_key_value_heads : config.intermediate_size);
  const double kept = std::min(1.0, double(choice.size) / full);
  return is_attention ? 0.02 * std::log2(1 / kept) : 0.12 * (1 / (kept + 0.1) - 1 / 1.1);
}

}  // namespace

std::vector<Choice> published_attention(const ModelConfig& config) {
  std::vector<Choice> choices;
  for (int64_t heads = config.num_key_value_heads / 2; heads >= 1; heads /= 2)
    if (config.num_key_value_heads % heads == 0)
      choices.push_back(parse_choice(Subblock::attention, fmt::format("gqa_{}", heads), config));
  for (const char* name : {"linear", "no_op"}) choices.push_back(parse_choice(Subblock::attention, name, config));
  return choices;
}

std::vector<Choice> published_ffn(const ModelConfig& config) {
  std::vector<Choice> choices;
  for (const char* name : {"0.87", "0.75", "0.5", "0.25", "0.2", "0.1", "linear", "no_op"}) {
    const Choice choice = parse_choice(Subblock::ffn, name, config);
    if (std::find(choices.begin(), choices.end(), choice) == choices.end()) choices.push_back(choice);
  }
  return choices;
}

ScoreTable example_scores(const ModelConfig& config, std::span<const Choice> attention, std::span<const Choice> ffn,
                          uint64_t seed) {
  ScoreTable table{.layer_count = config.num_hidden_layers};
  add_metric(table, {.name = "kl_divergence", .units = "nats", .higher_is_better = false, .teacher = 0});
  uint64_t stream = 4;
  for (const Subblock s : {Subblock::attention, Subblock::ffn}) {
    const Choice own = teacher_choice(s, config);
    std::vector<Choice> choices = {own};
    for (const Choice& choice : s == Subblock::attention ? attention : ffn)
      if (choice != own) choices.push_back(choice);
    for (const Choice& choice : choices) {
      ++stream;
      for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
        Replacement replacement{.first_layer = layer, .layer_count = 1, .attention = {}, .ffn = {}};
        replacement.of(s) = choice;
        TableRow& row = row_of(table, replacement);
        row.teacher = choice == own;
        const double noise = std::exp(kNoise * random_normal(seed, stream, uint64_t(layer)));
        row.values[0] =
            row.teacher ? 0 : sensitivity(layer, config.num_hidden_layers, seed) * damage(choice, config) * noise;
        row.standard_errors[0] = kNoise / 2 * row.values[0];
      }
    }
  }
  table.attributes["scores"] = "generated";
  return table;
}

}  // namespace tangram
