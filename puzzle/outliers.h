#pragma once
#include <span>
#include <vector>

#include "puzzle/score_table.h"

namespace tangram {

/// What each row alone changes in a metric, turned so that more is worse: 0 for the teacher's own, NaN where there is
/// no score.
std::vector<double> losses_of(const ScoreTable& table, size_t metric);

/// Value at `part` (0 to 1) of ascending values, linear between neighbours. There must be at least one.
double quantile(std::span<const double> sorted, double part);

/// Which rows are far worse than the same variant in most layers: more than three interquartile ranges above its third
/// quartile over the layers (Tukey's outer fence).
std::vector<bool> outliers_of(const ScoreTable& table, std::span<const double> losses);

}  // namespace tangram
