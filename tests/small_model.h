#pragma once
#include <cmath>

#include "blocks/model.h"
#include "kernels/random.h"

namespace tangram {

/// A teacher small enough for any test, with every dimension different.
inline ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 23, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 3;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 8, c.max_position_embeddings = 64;
  return c;
}

/// Random weights at which every layer matters: norms around 1, matrices that keep a vector's length.
inline void fill_random(const Model& model, uint64_t seed) {
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model)) {
    const bool is_norm = t.tensor.rows == 1;
    const double deviation = is_norm ? 0.1 : 1 / std::sqrt(double(t.tensor.cols));
    dispatch(model.dtype, [&]<class T>() {
      for (int64_t i = 0; i < t.tensor.size(); ++i)
        t.tensor.as<T>()[i] = T(float(is_norm) + float(deviation * random_normal(seed, stream, uint64_t(i))));
    });
    ++stream;
  }
}

inline Model small_teacher(DType dtype = DType::f32) {
  const ModelConfig config = small_config();
  Model model = make_model(config, teacher_architecture(config), dtype);
  fill_random(model, 3);
  return model;
}

}  // namespace tangram
