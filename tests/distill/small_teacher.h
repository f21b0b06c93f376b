#pragma once
#include <cmath>

#include "blocks/model.h"
#include "distill/dataset.h"
#include "kernels/random.h"

namespace tangram {

inline ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 23, c.hidden_size = 32, c.intermediate_size = 48, c.num_hidden_layers = 3;
  c.num_attention_heads = 4, c.num_key_value_heads = 2, c.head_dim = 8, c.max_position_embeddings = 64;
  return c;
}

/// Random weights at which every layer matters.
inline Model small_model(const ModelConfig& config, const Architecture& architecture, DType dtype = DType::f32,
                         uint64_t seed = 3) {
  Model model = make_model(config, architecture, dtype);
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model)) {
    const bool is_norm = t.tensor.rows == 1;
    const double deviation = is_norm ? 0.1 : 1 / std::sqrt(double(t.tensor.cols));
    dispatch(dtype, [&]<class T>() {
      for (int64_t i = 0; i < t.tensor.size(); ++i)
        t.tensor.as<T>()[i] = T(float(is_norm) + float(deviation * random_normal(seed, stream, uint64_t(i))));
    });
    ++stream;
  }
  return model;
}

inline Model small_teacher(DType dtype = DType::f32) {
  return small_model(small_config(), teacher_architecture(small_config()), dtype);
}

/// Random tokens in segments of 16, 10 and 6; every token but the last of a segment has the next one as its target.
inline Batch small_batch(uint64_t stream) {
  Batch batch;
  for (int32_t length : {16, 10, 6}) {
    batch.lengths.push_back(length);
    for (int32_t i = 0; i < length; ++i) {
      batch.tokens.push_back(int32_t(random_below(23, 5, stream, batch.tokens.size())));
      batch.targets.push_back(-1);
      if (i > 0) batch.targets[batch.tokens.size() - 2] = batch.tokens.back();
    }
  }
  return batch;
}
inline constexpr int64_t kSmallBatchTokens = 32;

}  // namespace tangram
