#pragma once
#include <functional>
#include <string>
#include <vector>

#include "puzzle/roofline.h"

namespace tangram {

/// A time that was taken, and how it is modelled.
struct TimedPoint {
  std::string name;
  double seconds = 0;
  std::function<TimeParts(const Hardware&)> model;
  bool is_disturbed = false;  ///< taken while other work kept the machine busy
};

struct Calibration {
  std::vector<bool> used;  ///< (points)  whether a point counts: not if it is disturbed or far off all others
  Hardware hardware;       ///< with its efficiencies, their error bars and the residual fitted
  std::vector<double> before, after;  ///< (points)  modelled seconds, by the description as it was and as it is
};

/// Fits the efficiencies of a description to measured points. In logarithms, since an efficiency scales times:
///
///   minimise  sum_i (log(model_i / measured_i) / residual)^2 + sum_t (log(efficiency_t / stated_t) / error_t)^2
///
/// by Gauss-Newton steps, whose derivatives are the shares of the terms in the modelled times. What the points do not
/// tell of stays as stated, and so does an efficiency of error 0. The residual is then the points' scatter about the
/// model, at least 1 %, and fits are repeated with it; the error bars are those of the fit: the square roots of the
/// inverse matrix's diagonal. Disturbed points do not count where 8 others are left. Of 20 points or more, those that
/// are off by more than five times the median's standard deviation, and by a factor of three, do not count: on a shared
/// machine some times are another process's. Throws Error (bad_input) if a time is not positive or there is none.
Calibration calibrate(const Hardware& stated, const std::vector<TimedPoint>& points);

}  // namespace tangram
