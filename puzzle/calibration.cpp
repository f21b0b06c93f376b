#include "puzzle/calibration.h"

#include <algorithm>
#include <cmath>

namespace tangram {
namespace {

using Vector = std::array<double, kTermCount>;
using Matrix = std::array<Vector, kTermCount>;

// Inverse of a positive definite matrix, by Gauss-Jordan elimination.
Matrix inverse(Matrix a) {
  Matrix inverted = {};
  for (size_t i = 0; i < kTermCount; ++i) inverted[i][i] = 1;
  for (size_t k = 0; k < kTermCount; ++k) {
    const double pivot = a[k][k];
    for (size_t j = 0; j < kTermCount; ++j) a[k][j] /= pivot, inverted[k][j] /= pivot;
    for (size_t i = 0; i < kTermCount; ++i) {
      if (i == k) continue;
      const double factor = a[i][k];
      for (size_t j = 0; j < kTermCount; ++j) a[i][j] -= factor * a[k][j], inverted[i][j] -= factor * inverted[k][j];
    }
  }
  return inverted;
}

/// One fit with a given residual.
class Fit {
 public:
  Fit(const Hardware& stated, const std::vector<TimedPoint>& points)
      : used(points.size(), true), stated_(stated), points_(points), may_be_used_(points.size(), true) {
    constexpr int64_t kFewestQuiet = 8;  // one more than there are efficiencies
    if (std::count_if(points.begin(), points.end(), [](auto& p) { return !p.is_disturbed; }) < kFewestQuiet) return;
    for (size_t i = 0; i < points.size(); ++i) used[i] = may_be_used_[i] = !points[i].is_disturbed;
  }

  std::vector<bool> used;

  // Moves `hardware` to the minimum; its efficiencies' errors are those of the fit.
  void run(Hardware& hardware, double residual) {
    constexpr int kSteps = 100;
    constexpr double kLongest = 0.5, kDone = 1e-9;  // of a logarithm
    for (int step = 0; step < kSteps; ++step) {
      linearise(hardware, residual);
      double longest = 0;
      for (size_t t = 0; t < kTermCount; ++t) {
        double change = 0;
        for (size_t u = 0; u < kTermCount; ++u) change -= covariance_[t][u] * gradient_[u];
        change = std::clamp(change, -kLongest, kLongest);
        hardware.efficiency[t].value *= std::exp(change);
        longest = std::max(longest, std::abs(change));
      }
      if (longest < kDone) break;
    }
    linearise(hardware, residual);
    for (size_t t = 0; t < kTermCount; ++t)
      hardware.efficiency[t].error = is_free(t) ? std::sqrt(covariance_[t][t]) : 0;
  }

  // Standard deviation of the points about the model, for as many degrees of freedom as the fit has left them.
  double scatter(const Hardware& hardware, double residual) {
    linearise(hardware, residual);
    double in_fit = 0, sum = 0;
    for (size_t t = 0; t < kTermCount; ++t)
      for (size_t u = 0; u < kTermCount; ++u) in_fit += covariance_[t][u] * information_[u][t];
    for (const double d : distances_) sum += d * d;
    return std::sqrt(sum / std::max(1.0, double(distances_.size()) - in_fit));
  }

  // Leaves out what is too far from the model.
  void find_outliers(const Hardware& hardware) {
    constexpr size_t kFewest = 20;
    constexpr double kFar = 5, kDeviations = 1.4826;  // of a normal distribution, for one median distance
    if (points_.size() < kFewest) return;
    std::vector<double> distances, sorted;
    for (size_t i = 0; i < points_.size(); ++i) {
      distances.push_back(std::abs(std::log(points_[i].model(hardware).total() / points_[i].seconds)));
      if (may_be_used_[i]) sorted.push_back(distances.back());
    }
    std::nth_element(sorted.begin(), sorted.begin() + std::ssize(sorted) / 2, sorted.end());
    const double most = std::max(std::log(3), kFar * kDeviations * sorted[sorted.size() / 2]);
    for (size_t i = 0; i < points_.size(); ++i) used[i] = may_be_used_[i] && distances[i] <= most;
  }

 private:
  bool is_free(size_t term) const { return stated_.efficiency[term].error > 0; }

  void linearise(const Hardware& hardware, double residual) {
    gradient_ = {}, information_ = {}, distances_.clear();
    for (size_t i = 0; i < points_.size(); ++i) {
      if (!used[i]) continue;
      const TimedPoint& point = points_[i];
      const TimeParts time = point.model(hardware);
      const double distance = std::log(time.total() / point.seconds);
      distances_.push_back(distance);
      for (size_t t = 0; t < kTermCount; ++t) {
        const double slope = is_free(t) ? -time.seconds[t] / time.total() : 0;
        gradient_[t] += slope * distance / (residual * residual);
        for (size_t u = 0; u < kTermCount; ++u)
          if (is_free(u)) information_[t][u] += slope * -time.seconds[u] / time.total() / (residual * residual);
      }
    }
    Matrix whole = information_;
    for (size_t t = 0; t < kTermCount; ++t) {
      const Efficiency& was = stated_.efficiency[t];
      const double weight = is_free(t) ? 1 / (was.error * was.error) : 1;
      whole[t][t] += weight;
      if (is_free(t)) gradient_[t] += weight * std::log(hardware.efficiency[t].value / was.value);
    }
    covariance_ = inverse(whole);
  }

  const Hardware& stated_;
  const std::vector<TimedPoint>& points_;
  std::vector<bool> may_be_used_;
  Vector gradient_ = {};
  Matrix information_ = {}, covariance_ = {};
  std::vector<double> distances_;
};

}  // namespace

Calibration calibrate(const Hardware& stated, const std::vector<TimedPoint>& points) {
  constexpr int kRounds = 4;
  constexpr double kLeastResidual = 0.01;
  if (points.empty()) throw bad_input("calibration: no measured times to fit to");
  Calibration result{.used = {}, .hardware = stated, .before = {}, .after = {}};
  for (const TimedPoint& point : points) {
    if (!(point.seconds > 0) || std::isinf(point.seconds))
      throw bad_input("calibration: {} took {} seconds", point.name, point.seconds);
    result.before.push_back(point.model(stated).total());
    if (!(result.before.back() > 0)) throw bad_input("calibration: nothing to do in {}", point.name);
  }
  Fit fit(stated, points);
  double residual = std::max(kLeastResidual, stated.residual);
  for (int round = 0; round < kRounds; ++round) {
    fit.run(result.hardware, residual);
    fit.find_outliers(result.hardware);
    residual = std::max(kLeastResidual, fit.scatter(result.hardware, residual));
  }
  fit.run(result.hardware, residual);
  result.hardware.residual = residual;
  result.used = fit.used;
  for (const TimedPoint& point : points) result.after.push_back(point.model(result.hardware).total());
  return result;
}

}  // namespace tangram
