#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/fast_math.h"

namespace tangram {

/// Logits whose sums run in f32; longer sums are carried on in f64. Chunks of the vocabulary are multiples of it, so
/// the sums do not depend on how the vocabulary was cut.
inline constexpr int64_t kSoftmaxSegment = 512;

/// The softmax of a row that is seen piece by piece: sum_v exp(x[v]) and sum_v exp(x[v]) y[v], each over exp(max).
struct OnlineSoftmax {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0, weighted = 0;

  /// Adds a piece that has its own maximum.
  void add(float piece_max, float piece_sum, float piece_weighted = 0) {
    const float new_max = std::max(max, piece_max);
    const double old_scale = std::exp(double(max) - new_max), scale = std::exp(double(piece_max) - new_max);
    sum = std::fma(sum, old_scale, piece_sum * scale);  // written out, so that equal rows give equal bits
    weighted = std::fma(weighted, old_scale, piece_weighted * scale);
    max = new_max;
  }
};

/// The K largest values of a row that is seen piece by piece in ascending order of ids; of equal values the first.
template <int K>
struct TopValues {
  std::array<float, K> values;
  std::array<int32_t, K> ids;

  TopValues() {
    values.fill(-std::numeric_limits<float>::infinity());
    ids.fill(-1);
  }

  void add(float value, int32_t id) {
    if (!(value > values[K - 1])) return;
    int place = K - 1;
    for (; place > 0 && value > values[place - 1]; --place) {
      values[place] = values[place - 1];
      ids[place] = ids[place - 1];
    }
    values[place] = value;
    ids[place] = id;
  }

  int place_of(int32_t id) const { return static_cast<int>(std::find(ids.begin(), ids.end(), id) - ids.begin()); }
};

inline float max_of(const float* x, int64_t count) {
  float m = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : m)
  for (int64_t i = 0; i < count; ++i) m = std::max(m, x[i]);
  return m;
}

/// sum_i exp(x[i] - max)
inline float exp_sum(const float* x, float max, int64_t count) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += fast_exp(x[i] - max);
  return sum;
}

}  // namespace tangram
