#pragma once
#include <set>
#include <vector>

#include "kernels/random.h"
#include "tests/own_sequences.h"
#include "tests/small_model.h"

namespace tangram {

/// Random architectures of `config` of a few layers each, in which all kinds of neighbouring subblocks, of first and
/// of last blocks are.
inline std::vector<Architecture> irregular_architectures(const ModelConfig& config,
                                                         const std::vector<std::string>& attention,
                                                         const std::vector<std::string>& ffn) {
  const auto choice = [&](Subblock s, const std::vector<std::string>& names, uint64_t draw) {
    return parse_choice(s, names[draw % names.size()], config);
  };
  std::vector<Architecture> all;
  uint64_t draw = 0;
  const auto block = [&] {
    const uint64_t a = random_bits(17, 0, draw), f = random_bits(17, 1, draw);
    ++draw;
    return BlockChoice{choice(Subblock::attention, attention, a), choice(Subblock::ffn, ffn, f)};
  };
  for (uint64_t a = 0; a < attention.size(); ++a)
    for (uint64_t f = 0; f < ffn.size(); ++f) {
      const BlockChoice own{choice(Subblock::attention, attention, a), choice(Subblock::ffn, ffn, f)};
      for (uint64_t next = 0; next < attention.size(); ++next)  // in the middle, before every kind
        all.push_back({block(), own, {choice(Subblock::attention, attention, next), block().ffn}, block()});
      all.push_back({own, block(), block()});  // first
      all.push_back({block(), block(), own});  // last
      all.push_back({own});
    }
  return all;
}

inline Model random_model(ModelConfig config, const Architecture& architecture, DType dtype, uint64_t seed) {
  config.num_hidden_layers = std::ssize(architecture);
  Model model = make_model(config, architecture, dtype);
  fill_random(model, seed);
  return model;
}

/// Logits of a short text, in f32.
inline std::vector<float> logits_of(const Model& model, int32_t tokens = 9) {
  Context ctx({.threads = 1, .scratch_bytes = 8 << 20});
  Arena arena(4 << 20);
  std::vector<int32_t> ids;
  for (int32_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>((5 + 7 * t) % model.config.vocab_size));
  const OwnSequences batch(model.config, std::vector<int32_t>{tokens});
  const Tensor hidden = arena.tensor(tokens, model.config.hidden_size, model.dtype);
  const Tensor logits = arena.tensor(tokens, model.config.vocab_size, DType::f32);
  model_hidden(hidden, model, ids, batch.view(), ctx);
  model_logits(logits, model, hidden, ctx);
  return {logits.as<float>(), logits.as<float>() + logits.size()};
}

/// The largest difference over the largest value.
inline double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK(a.size() == b.size(), "{} values beside {}", a.size(), b.size());
  double largest = 0, difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    largest = std::max(largest, std::abs(double(a[i])));
    difference = std::max(difference, std::abs(double(a[i]) - double(b[i])));
  }
  return difference / largest;
}

}  // namespace tangram
