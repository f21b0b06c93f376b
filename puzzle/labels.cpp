#include "puzzle/labels.h"

#include <algorithm>
#include <cmath>

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr size_t kCompared =
    24;  // labels before a label, in order of cost, that are asked whether they make it needless

struct Label {
  double objective;
  int32_t before, arc;  // index among all labels; -1 at the start
};

class LabelSearch {
 public:
  LabelSearch(const Network& network, const LabelOptions& options)
      : n_(network), options_(options), rows_(network.row_count()) {
    quantise();
    for (const std::vector<double>& u : options.multipliers) add_bound(u);
  }

  bool run(const std::function<double(const std::vector<int32_t>&)>& found) {
    below_ = options_.below;
    at_.resize(static_cast<size_t>(n_.layers) + 1);
    labels_.push_back({0, -1, -1});
    costs_.assign(rows_, 0);
    at_[0].push_back(0);
    size_t arc = 0;
    for (int32_t node = 0; node < n_.layers; ++node) {
      prune(at_[static_cast<size_t>(node)]);
      for (; arc < n_.arc_count() && n_.from[arc] == node; ++arc)
        if (!extend(arc) || std::chrono::steady_clock::now() > options_.deadline) return false;
      at_[static_cast<size_t>(node)].clear();
    }
    std::vector<int32_t>& last = at_.back();
    std::sort(last.begin(), last.end(), [&](int32_t a, int32_t b) {
      const Label &la = labels_[static_cast<size_t>(a)], &lb = labels_[static_cast<size_t>(b)];
      return la.objective != lb.objective ? la.objective < lb.objective : a < b;
    });
    for (const int32_t l : last) {
      if (labels_[static_cast<size_t>(l)].objective >= below_) break;
      below_ = std::min(below_, found(path_to(l)));
    }
    return true;
  }

 private:
  void quantise() {
    for (size_t k = 0; k < rows_; ++k) {
      double largest = std::abs(n_.capacity[k]);
      std::vector<double> of_layer(static_cast<size_t>(n_.layers));
      for (size_t a = 0; a < n_.arc_count(); ++a) {
        double& most = of_layer[static_cast<size_t>(n_.from[a])];
        most = std::max(most, std::abs(n_.costs[k][a]));
      }
      double sum = 0;
      for (const double most : of_layer) sum += most;
      largest = std::max(largest, sum);
      const double scale = largest > 0 ? std::ldexp(1, 58 - std::ilogb(largest)) : 1;
      for (size_t a = 0; a < n_.arc_count(); ++a) whole_.push_back(std::llrint(n_.costs[k][a] * scale));
      most_.push_back(std::llrint(n_.capacity[k] * scale) + n_.layers);
      scale_.push_back(scale);
    }
  }

  /// A bound: objective + sum_k u_k costs_k / scale_k + ahead[node] - u . capacity.
  void add_bound(const std::vector<double>& u) {
    std::vector<double> weights, ahead(static_cast<size_t>(n_.layers) + 1, kInfinity);
    weigh(weights, n_, u);
    double fixed = 0;
    for (size_t k = 0; k < rows_; ++k) fixed += u[k] * n_.capacity[k], prices_.push_back(u[k] / scale_[k]);
    ahead.back() = -fixed;
    for (size_t a = n_.arc_count(); a-- > 0;) {
      double& best = ahead[static_cast<size_t>(n_.from[a])];
      best = std::min(best, weights[a] + ahead[static_cast<size_t>(n_.to[a])]);
    }
    margin_ = std::max(margin_, 1e-13 * (std::abs(fixed) + std::abs(ahead[0])));
    ahead_.push_back(std::move(ahead));
  }

  bool extend(size_t arc) {
    const auto from = static_cast<size_t>(n_.from[arc]), to = static_cast<size_t>(n_.to[arc]);
    std::vector<int64_t> costs(rows_);
    for (const int32_t l : at_[from]) {
      const double objective = labels_[static_cast<size_t>(l)].objective + n_.objective[arc];
      bool is_cut = false;
      for (size_t k = 0; k < rows_; ++k)
        costs[k] = costs_[static_cast<size_t>(l) * rows_ + k] + whole_[k * n_.arc_count() + arc];
      for (size_t b = 0; b < ahead_.size() && !is_cut; ++b) {
        double bound = objective + ahead_[b][to];
        for (size_t k = 0; k < rows_; ++k) bound += prices_[b * rows_ + k] * static_cast<double>(costs[k]);
        is_cut = bound > below_ + margin_;
      }
      if (is_cut) continue;
      if (labels_.size() >= options_.labels_at_most) return false;
      at_[to].push_back(static_cast<int32_t>(labels_.size()));
      labels_.push_back({objective, l, static_cast<int32_t>(arc)});
      costs_.insert(costs_.end(), costs.begin(), costs.end());
    }
    return true;
  }

  void prune(std::vector<int32_t>& at) {
    const auto costs = [&](int32_t l) { return costs_.data() + static_cast<size_t>(l) * rows_; };
    std::sort(at.begin(), at.end(), [&](int32_t a, int32_t b) {
      const int64_t *ca = costs(a), *cb = costs(b);
      for (size_t k = 0; k < rows_; ++k)
        if (ca[k] != cb[k]) return ca[k] < cb[k];
      const double oa = labels_[static_cast<size_t>(a)].objective, ob = labels_[static_cast<size_t>(b)].objective;
      return oa != ob ? oa < ob : a < b;
    });
    std::vector<int32_t> kept;
    for (const int32_t b : at) {
      bool is_needless = false;
      for (size_t i = kept.size(); i-- > (kept.size() > kCompared ? kept.size() - kCompared : 0) && !is_needless;) {
        const int32_t a = kept[i];
        is_needless = labels_[static_cast<size_t>(a)].objective <= labels_[static_cast<size_t>(b)].objective;
        for (size_t k = 0; k < rows_ && is_needless; ++k) is_needless = costs(a)[k] <= costs(b)[k];
      }
      if (!is_needless) kept.push_back(b);
    }
    at = std::move(kept);
  }

  std::vector<int32_t> path_to(int32_t label) const {
    std::vector<int32_t> arcs;
    for (; labels_[static_cast<size_t>(label)].arc >= 0; label = labels_[static_cast<size_t>(label)].before)
      arcs.push_back(labels_[static_cast<size_t>(label)].arc);
    std::reverse(arcs.begin(), arcs.end());
    return arcs;
  }

  const Network& n_;
  const LabelOptions& options_;
  const size_t rows_;
  std::vector<int64_t> whole_;              // (rows, arcs)
  std::vector<int64_t> most_;               // (rows)
  std::vector<double> scale_;               // (rows)
  std::vector<std::vector<double>> ahead_;  // (bounds, nodes)
  std::vector<double> prices_;              // (bounds, rows)
  double margin_ = 0, below_ = 0;
  std::vector<Label> labels_;
  std::vector<int64_t> costs_;            // (labels, rows)
  std::vector<std::vector<int32_t>> at_;  // (nodes)  labels
};

}  // namespace

bool search_by_labels(const Network& network, const LabelOptions& options,
                      const std::function<double(const std::vector<int32_t>&)>& found) {
  return LabelSearch(network, options).run(found);
}

}  // namespace tangram
