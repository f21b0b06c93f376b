#include "puzzle/lagrangian.h"

#include <algorithm>
#include <cmath>

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kOutOfReach = 1e7;  // price of exceeding a row, in objectives of the whole network a typical cost

constexpr size_t kFewRows = 6;  // up to here cutting planes hardly swing, and damping them only costs steps

/// The master program: parts y of paths, free capacity s, and what exceeds it (a column a row, or one for all), with
///
///   minimise f . y + price . excess    where   sum_p y_p (costs_p - capacity) + s - excess = 0,   sum_p y_p = 1
///
/// Column -1-k is s[k], column -1-rows-k is the excess of row k; others are paths.
class Master {
 public:
  Master(const Network& network, const std::vector<double>& slack, double price)
      : network_(network), slack_(slack), price_(price), rows_(network.row_count()) {}

  std::vector<Path> paths;

  void start(Path first) {
    paths.insert(paths.begin(), std::move(first));
    const size_t n = rows_ + 1;
    basis_.assign(n, 0);
    inverse_.assign(n * n, 0);
    std::vector<double> over(rows_);
    for (size_t k = 0; k < rows_; ++k) over[k] = paths[0].costs[k] - network_.capacity[k];
    size_t worst = rows_;  // for one excess column: the row that needs most of it
    if (!slack_.empty())
      for (size_t k = 0; k < rows_; ++k)
        if (over[k] > 0 && (worst == rows_ || over[k] / slack_[k] > over[worst] / slack_[worst])) worst = k;
    for (size_t k = 0; k < rows_; ++k) {
      const bool exceeded = slack_.empty() ? over[k] > 0 : k == worst;
      basis_[k] = exceeded ? excess_column(k) : free_column(k);
    }
    basis_[rows_] = 0;
    invert();
  }

  /// Pivots until no known column improves; false if rounding stops it.
  bool solve() {
    for (size_t pivots = 0; pivots < 50 * (rows_ + 2); ++pivots) {
      const int64_t entering = best_column();
      if (entering == kNone) return true;
      if (!pivot(entering)) return false;
    }
    return false;
  }

  double value() const { return duals_[rows_]; }
  /// Prices of the rows, not below 0.
  std::vector<double> multipliers() const {
    std::vector<double> u(rows_);
    for (size_t k = 0; k < rows_; ++k) u[k] = std::max(0.0, -duals_[k]);
    return u;
  }
  std::vector<std::pair<size_t, double>> parts() const {
    std::vector<std::pair<size_t, double>> found;
    for (size_t i = 0; i < basis_.size(); ++i)
      if (basis_[i] >= 0 && values_[i] > 1e-9) found.push_back({static_cast<size_t>(basis_[i]), values_[i]});
    return found;
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::min();

  int64_t free_column(size_t k) const { return -1 - static_cast<int64_t>(k); }
  int64_t excess_column(size_t k) const { return -1 - static_cast<int64_t>(rows_ + (slack_.empty() ? k : 0)); }

  double price_of(int64_t column) const {
    if (column >= 0) return paths[static_cast<size_t>(column)].objective;
    return -1 - column < static_cast<int64_t>(rows_) ? 0 : price_;
  }

  double entry(int64_t column, size_t row) const {
    if (column >= 0) return row == rows_ ? 1 : paths[static_cast<size_t>(column)].costs[row] - network_.capacity[row];
    const auto k = static_cast<size_t>(-1 - column);
    if (k < rows_) return row == k ? 1 : 0;
    if (row == rows_) return 0;
    return slack_.empty() ? (row == k - rows_ ? -1 : 0) : -slack_[row];
  }

  double reduced(int64_t column) const {
    double r = price_of(column);
    for (size_t i = 0; i <= rows_; ++i) r -= duals_[i] * entry(column, i);
    return r;
  }

  int64_t best_column() const {
    int64_t best = kNone;
    double least = -1e-11 * (1 + std::abs(duals_[rows_]));
    const auto consider = [&](int64_t column) {
      const double r = reduced(column);
      if (r < least && std::find(basis_.begin(), basis_.end(), column) == basis_.end()) least = r, best = column;
    };
    for (size_t p = 0; p < paths.size(); ++p) consider(static_cast<int64_t>(p));
    for (size_t k = 0; k < rows_; ++k) consider(free_column(k));
    for (size_t k = 0; k < (slack_.empty() ? rows_ : 1); ++k) consider(excess_column(k));
    return best;
  }

  bool pivot(int64_t column) {
    const size_t n = rows_ + 1;
    std::vector<double> d(n);
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) d[i] += inverse_[i * n + j] * entry(column, j);
    size_t leaving = n;
    double step = kInfinity;
    for (size_t i = 0; i < n; ++i) {
      if (d[i] < 1e-10) continue;
      const double s = std::max(0.0, values_[i]) / d[i];
      if (s < step || (s == step && d[i] > d[leaving])) step = s, leaving = i;
    }
    if (leaving == n) return false;
    basis_[leaving] = column;
    for (size_t j = 0; j < n; ++j) inverse_[leaving * n + j] /= d[leaving];
    for (size_t i = 0; i < n; ++i)
      if (i != leaving && d[i] != 0)
        for (size_t j = 0; j < n; ++j) inverse_[i * n + j] -= d[i] * inverse_[leaving * n + j];
    refresh();
    return true;
  }

  // Gauss-Jordan of the first basis, whose columns but two have one entry.
  void invert() {
    const size_t n = rows_ + 1;
    std::vector<double> b(n * n);
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) b[i * n + j] = entry(basis_[j], i), inverse_[i * n + j] = i == j;
    for (size_t c = 0; c < n; ++c) {
      size_t p = c;
      for (size_t i = c + 1; i < n; ++i)
        if (std::abs(b[i * n + c]) > std::abs(b[p * n + c])) p = i;
      for (size_t j = 0; j < n; ++j)
        std::swap(b[p * n + j], b[c * n + j]), std::swap(inverse_[p * n + j], inverse_[c * n + j]);
      const double d = b[c * n + c];
      for (size_t j = 0; j < n; ++j) b[c * n + j] /= d, inverse_[c * n + j] /= d;
      for (size_t i = 0; i < n; ++i) {
        const double f = b[i * n + c];
        if (i == c || f == 0) continue;
        for (size_t j = 0; j < n; ++j) b[i * n + j] -= f * b[c * n + j], inverse_[i * n + j] -= f * inverse_[c * n + j];
      }
    }
    refresh();
  }

  void refresh() {
    const size_t n = rows_ + 1;
    duals_.assign(n, 0), values_.assign(n, 0);
    for (size_t i = 0; i < n; ++i) {
      values_[i] = inverse_[i * n + rows_];  // the right-hand side is 0 but for the last row
      const double price = price_of(basis_[i]);
      if (price != 0)
        for (size_t j = 0; j < n; ++j) duals_[j] += price * inverse_[i * n + j];
    }
  }

  const Network& network_;
  const std::vector<double>& slack_;
  const double price_;
  const size_t rows_;
  std::vector<int64_t> basis_;
  std::vector<double> inverse_, duals_, values_;  // (rows + 1, rows + 1), (rows + 1), (rows + 1)
};

double price_of_excess(const Network& network, const Path& first) {
  double size = std::abs(first.objective);
  for (const double o : network.objective) size = std::max(size, std::abs(o));
  return kOutOfReach * (size > 0 ? size : 1);
}

}  // namespace

double bound_of(const Network& network, std::span<const double> multipliers, double lightest, const Path& path) {
  double bound = lightest, size = 0;
  for (size_t k = 0; k < multipliers.size(); ++k) {
    bound -= multipliers[k] * network.capacity[k];
    size += multipliers[k] * std::abs(network.capacity[k]);
  }
  for (const int32_t a : path.arcs) {
    size += std::abs(network.objective[static_cast<size_t>(a)]);
    for (size_t k = 0; k < multipliers.size(); ++k)
      size += multipliers[k] * std::abs(network.costs[k][static_cast<size_t>(a)]);
  }
  return bound - 1e-14 * size;
}

Dual maximise_bound(const Network& network, const DualOptions& options, std::span<const double> start,
                    std::vector<Path> known, const std::function<void(const Path&)>& seen) {
  Dual dual{.multipliers = std::vector<double>(start.begin(), start.end()), .paths = {}, .parts = {}};
  dual.multipliers.resize(network.row_count());
  std::vector<double> weights;
  Path path;
  const auto look = [&](const std::vector<double>& u) {
    weigh(weights, network, u);
    std::vector<int32_t> arcs;
    const double lightest = lightest_path(arcs, network, weights);
    if (lightest == kInfinity) return kInfinity;
    path = path_of(network, std::move(arcs));
    seen(path);
    const double bound = bound_of(network, u, lightest, path);
    if (bound > dual.bound) dual.bound = bound, dual.multipliers = u;
    return bound;
  };
  const auto reduced = [&](const std::vector<double>& u) {
    double r = path.objective;
    for (size_t k = 0; k < u.size(); ++k) r += u[k] * (path.costs[k] - network.capacity[k]);
    return r;
  };
  const std::vector<double> first_multipliers = dual.multipliers;
  if (look(first_multipliers) == kInfinity || dual.bound > options.stop_above) {
    if (dual.bound == -kInfinity) dual.bound = kInfinity;
    return dual;
  }
  Master master(network, options.slack, options.slack.empty() ? price_of_excess(network, path) : 1);
  master.paths = std::move(known);
  master.start(path);
  double damping = network.row_count() > kFewRows ? 0.5 : 0;
  for (int step = 0; step < options.steps_at_most && master.solve(); ++step) {
    const double reach = master.value();
    if (reach - dual.bound <= options.tolerance * (1e-3 + std::abs(reach))) break;
    std::vector<double> u = master.multipliers();
    const std::vector<double> target = u;
    for (size_t k = 0; k < u.size(); ++k) u[k] += damping * (dual.multipliers[k] - u[k]);
    const double before = dual.bound;
    look(u);
    if (dual.bound > options.stop_above) break;
    const bool is_cut = reduced(target) < reach - 1e-11 * (1 + std::abs(reach));
    if (is_cut) {
      master.paths.push_back(path);
    } else if (damping == 0) {
      break;
    }
    if (!is_cut && dual.bound <= before) damping = 0;
  }
  for (const auto& [p, part] : master.parts()) dual.paths.push_back(master.paths[p]), dual.parts.push_back(part);
  return dual;
}

}  // namespace tangram
