#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention.h"

namespace tangram {

/// (rows, cols) in f64.
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<double> values = std::vector<double>(size_t(rows * cols));
  double& operator()(int64_t r, int64_t c) { return values[size_t(r * cols + c)]; }
  double operator()(int64_t r, int64_t c) const { return values[size_t(r * cols + c)]; }
};

/// Attention of one sequence by its definition, in f64, with the whole matrix p in memory.
struct AttentionReference {
  AttentionShape shape;
  int64_t tokens;
  Matrix q, k, v, dout;
  Matrix out = {}, lse = {}, dq = {}, dk = {}, dv = {};
  Matrix out_size = {}, dq_size = {}, dk_size = {},
         dv_size = {};       ///< the same sums over magnitudes: what rounding errors are relative to
  double largest_score = 0;  ///< of the magnitudes' sums

  double score(int64_t i, int64_t j, int64_t h, bool magnitude) const {
    const int64_t D = shape.head_dim, g = h / (shape.heads / shape.kv_heads);
    double sum = 0;
    for (int64_t d = 0; d < D; ++d) {
      const double term = q(i, h * D + d) * k(j, g * D + d);
      sum += magnitude ? std::abs(term) : term;
    }
    return sum / std::sqrt(double(D));
  }

  bool sees(int64_t i, int64_t j) const { return j <= i && i - j < shape.window; }

  void forward() {
    const int64_t H = shape.heads, D = shape.head_dim, group = H / shape.kv_heads;
    out = out_size = {tokens, H * D}, lse = {tokens, H};
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < tokens; ++i) {
        std::vector<double> s(size_t(i + 1), -INFINITY);
        for (int64_t j = 0; j <= i; ++j)
          if (sees(i, j))
            s[size_t(j)] = score(i, j, h, false), largest_score = std::max(largest_score, score(i, j, h, true));
        const double most = *std::max_element(s.begin(), s.end());
        double total = 0;
        for (const double x : s) total += std::exp(x - most);
        lse(i, h) = most + std::log(total);
        for (int64_t j = 0; j <= i; ++j)
          for (int64_t d = 0; d < D; ++d) {
            const double term = std::exp(s[size_t(j)] - lse(i, h)) * v(j, h / group * D + d);
            out(i, h * D + d) += term, out_size(i, h * D + d) += std::abs(term);
          }
      }
  }

  void backward() {
    const int64_t H = shape.heads, D = shape.head_dim, G = shape.kv_heads, group = H / G;
    const double scale = 1 / std::sqrt(double(D));
    dq = dq_size = {tokens, H * D}, dk = dk_size = dv = dv_size = {tokens, G * D};
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < tokens; ++i) {
        const int64_t g = h / group;
        double delta = 0, delta_size = 0;
        for (int64_t d = 0; d < D; ++d) {
          delta += dout(i, h * D + d) * out(i, h * D + d);
          delta_size += std::abs(dout(i, h * D + d) * out(i, h * D + d));
        }
        for (int64_t j = 0; j <= i; ++j) {
          if (!sees(i, j)) continue;
          const double p = std::exp(score(i, j, h, false) - lse(i, h));
          double dp = 0, dp_size = 0;
          for (int64_t d = 0; d < D; ++d) {
            dp += dout(i, h * D + d) * v(j, g * D + d), dp_size += std::abs(dout(i, h * D + d) * v(j, g * D + d));
            dv(j, g * D + d) += p * dout(i, h * D + d), dv_size(j, g * D + d) += p * std::abs(dout(i, h * D + d));
          }
          const double ds = p * (dp - delta) * scale, ds_size = p * (dp_size + delta_size) * scale;
          for (int64_t d = 0; d < D; ++d) {
            dq(i, h * D + d) += ds * k(j, g * D + d), dq_size(i, h * D + d) += ds_size * std::abs(k(j, g * D + d));
            dk(j, g * D + d) += ds * q(i, h * D + d), dk_size(j, g * D + d) += ds_size * std::abs(q(i, h * D + d));
          }
        }
      }
  }

  /// sum dout . out, whose derivatives are dq, dk and dv.
  double loss() {
    forward();
    double sum = 0;
    for (size_t i = 0; i < out.values.size(); ++i) sum += out.values[i] * dout.values[i];
    return sum;
  }

  /// Error of p relative to itself: that of a score, a sum of D products in f32, counts twice, in s and in lse; 16 more
  /// roundings are those of exp, log, the scale and the sum's lanes.
  double p_error() const { return 0x1p-24 * (2 * (double(shape.head_dim) + 4) * largest_score + 16); }
};

}  // namespace tangram
