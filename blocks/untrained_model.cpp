#include "blocks/untrained_model.h"

#include <cmath>

#include "kernels/random.h"

namespace tangram {

static bool writes_to_residual(const std::string& name) {
  return name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
}

Model make_untrained_model(const ModelConfig& config, const Architecture& architecture, DType dtype, uint64_t seed) {
  Model model = make_model(config, architecture, dtype);
  uint64_t stream = 0;
  for (const NamedTensor& t : named_tensors(model)) {
    const bool is_norm = t.tensor.rows == 1;
    double deviation = 1 / std::sqrt(double(t.tensor.cols));
    if (is_norm) deviation = 0;
    if (t.name == "model.embed_tokens.weight") deviation = 0.5;
    if (writes_to_residual(t.name)) deviation /= std::sqrt(2.0 * double(config.num_hidden_layers));
    dispatch(dtype, [&]<class T>() {
#pragma omp parallel for schedule(static)
      for (int64_t i = 0; i < t.tensor.size(); ++i)
        t.tensor.as<T>()[i] = T(float(is_norm) + float(deviation * random_normal(seed, stream, uint64_t(i))));
    });
    ++stream;
  }
  return model;
}

}  // namespace tangram
