#pragma once
#include <functional>

#include "nas/evaluation_file.h"
#include "puzzle/limits.h"

namespace tangram {

/// What a whole model took of a quantity, in the unit that limits have; NaN for parameters, which are only counted.
double taken(const MeasuredRuntime& runtime, const Scenario& scenario, Quantity quantity);

/// Enters into each student's runtimes the limits that it was searched under, as `limits_of` its name says. A limit
/// that is a part of the teacher's counts what the teacher took in the same scenario; where it was not measured,
/// nothing is said. Where the batch size is free, a limit need hold in one scenario of its group only: where one keeps
/// all, those that miss some are passed over.
void check_limits(std::vector<MeasuredRuntime>& runtimes, const std::vector<Scenario>& scenarios,
                  const std::function<std::vector<Constraint>(const std::string& student)>& limits_of);

/// `memory 412 MiB of the limit 400 MiB: MISSED by 3 %`, or `: kept`.
std::string limit_text(const TakenLimit& limit);

}  // namespace tangram
