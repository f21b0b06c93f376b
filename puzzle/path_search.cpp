#include "puzzle/path_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "puzzle/labels.h"
#include "puzzle/swaps.h"

namespace tangram {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Labels are tried after so many nodes, then after eight times as many, and so on, each time with so many labels a node
// as take about as long: whichever way suits a problem, the other costs little beside it.
constexpr int64_t kFirstNodes = 400;
constexpr size_t kLabelsOfNode = 150, kLabelBytes = size_t{400} << 20;
constexpr size_t kBoundedRows = 6;
constexpr size_t kOpenAtMost = 50'000;  // nodes; beyond, the newest go first, which needs little memory

/// A part of the paths that is still to be searched: those over `arcs`.
struct Node {
  double bound = -kInfinity;
  int64_t number = 0;
  std::vector<int32_t> arcs;  // ascending
  std::vector<char> chosen;   // (variants)  that may be used; of the others only so many that the sum is not exceeded
  std::vector<double> multipliers;
  std::vector<std::vector<int32_t>> paths;  // whose combination has the bound
  std::vector<double> parts;                // (paths)
};

bool has_higher_bound(const Node& a, const Node& b) {
  return a.bound != b.bound ? a.bound > b.bound : a.number > b.number;
}

bool contains(const std::vector<int32_t>& list, int32_t item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

class PathSearch {
 public:
  PathSearch(const Network& network, const PathSearchOptions& options, const Judge& judge)
      : network_(network), options_(options), judge_(judge) {
    for (const auto& variants : network.variants)
      for (const int32_t v : variants) variant_count_ = std::max(variant_count_, static_cast<size_t>(v) + 1);
    if (!options_.slack.empty()) return;
    std::vector<double> turned = network.objective;
    double size = 0;
    for (double& o : turned) o = -o, size = std::max(size, std::abs(o));
    std::vector<int32_t> arcs;
    ceiling_ = -lightest_path(arcs, network, turned) + 1e-9 * size;
  }

  PathSearchResult run(const std::vector<std::vector<int32_t>>& known) {
    for (const std::vector<int32_t>& ids : known) offer(ids);
    start();
    while (!open_.empty() && result_.value > options_.enough && open_.front().bound <= options_.hopeless) {
      if (result_.nodes >= options_.nodes_at_most || std::chrono::steady_clock::now() > options_.deadline) break;
      branch(take());
      const bool can_label = variant_count_ == 0 && options_.slack.empty() && !open_.empty();
      if (can_label && result_.nodes >= next_labels_) try_labels();
    }
    // All that was cut off is no better than this.
    result_.bound = result_.value == kInfinity ? kInfinity : options_.gap > 0 ? needless() : result_.value;
    for (const Node& node : open_) result_.bound = std::min(result_.bound, node.bound);
    return std::move(result_);
  }

 private:
  // Bounds beyond this are of no use: no path has such a value, or none better than the best one.
  double needless() const {
    const double value = result_.value;
    return value == kInfinity ? ceiling_ : value - std::max(margin_, options_.gap * std::abs(value));
  }

  void start() {
    Node root;
    root.arcs.resize(network_.arc_count());
    std::iota(root.arcs.begin(), root.arcs.end(), 0);
    root.chosen.resize(variant_count_);
    root.multipliers = options_.multipliers;
    add(root, root.arcs, root.chosen);
    result_.multipliers = open_.empty() ? options_.multipliers : open_.front().multipliers;
    if (open_.empty()) return;
    if (variant_count_ > 0) find_few_variants(open_.front());
    compact(open_.front());
    root_multipliers_ = open_.front().multipliers;
  }

  void try_labels() {
    next_labels_ = 8 * result_.nodes;
    LabelOptions options{.multipliers = {root_multipliers_},
                         .below = needless(),
                         .labels_at_most = std::min(kLabelBytes / (16 + 8 * network_.row_count()),
                                                    kLabelsOfNode * static_cast<size_t>(result_.nodes)),
                         .deadline = options_.deadline};
    // Dearer and cheaper limits, one by one and together, cut off what has used too much or too little of them.
    for (const double factor : {0.7, 0.9, 1.1, 1.4}) {
      std::vector<double> all = root_multipliers_;
      for (size_t k = 0; k < all.size(); ++k) {
        all[k] *= factor;
        if (root_multipliers_[k] == 0 || k >= kBoundedRows) continue;
        options.multipliers.push_back(root_multipliers_);
        options.multipliers.back()[k] *= factor;
      }
      options.multipliers.push_back(all);
    }
    const auto found = [&](std::vector<int32_t> arcs) {
      consider(network_, path_of(network_, std::move(arcs)));
      return needless();
    };
    if (search_by_labels(network_, options, found)) open_.clear();
  }

  void offer(const std::vector<int32_t>& ids) {
    const Judged judged = judge_(ids);
    if (!(judged.value < result_.value)) return;
    result_.value = judged.value;
    result_.ids = ids;
    margin_ = 1e-12 * (options_.slack.empty() ? judged.size : judged.value);
  }

  // Offers a path if its sums promise something; the judge has the last word.
  void consider(const Network& network, const Path& path) {
    double value = options_.slack.empty() ? path.objective : 0;
    for (size_t k = 0; k < path.costs.size(); ++k) {
      const double over = path.costs[k] - network.capacity[k];
      if (over > 0 && options_.slack.empty()) return;
      if (over > 0) value = std::max(value, over / options_.slack[k]);
    }
    if (!(value < result_.value)) return;
    std::vector<int32_t> ids;
    for (const int32_t a : path.arcs) ids.push_back(network.id[static_cast<size_t>(a)]);
    offer(ids);
  }

  bool is_full(const std::vector<char>& chosen) const {
    return variant_count_ > 0 && std::count(chosen.begin(), chosen.end(), 1) >= network_.most_variants;
  }

  bool uses_only(int32_t arc, const std::vector<char>& chosen) const {
    const auto& variants = network_.variants[static_cast<size_t>(arc)];
    return std::all_of(variants.begin(), variants.end(), [&](int32_t v) { return chosen[static_cast<size_t>(v)]; });
  }

  // The parent's paths that are still there, over the arcs of a part of the network.
  std::vector<Path> known_paths(const Node& parent, const Network& part, const std::vector<int32_t>& arcs) const {
    std::vector<int32_t> place(network_.arc_count(), -1);
    for (size_t i = 0; i < arcs.size(); ++i) place[static_cast<size_t>(arcs[i])] = static_cast<int32_t>(i);
    std::vector<Path> known;
    for (std::vector<int32_t> path : parent.paths) {
      for (int32_t& a : path) a = place[static_cast<size_t>(a)];
      if (!contains(path, -1)) known.push_back(path_of(part, std::move(path)));
    }
    return known;
  }

  Network part_of(const std::vector<int32_t>& arcs) const {
    std::vector<char> kept(network_.arc_count());
    for (const int32_t a : arcs) kept[static_cast<size_t>(a)] = 1;
    return restricted(network_, [&](size_t a) { return kept[a]; });
  }

  /// Bounds a part of a node's paths, and keeps it if something better may be in it.
  void add(const Node& parent, std::vector<int32_t> arcs, const std::vector<char>& chosen) {
    const bool is_root = ++result_.nodes == 1;
    if (is_full(chosen)) std::erase_if(arcs, [&](int32_t a) { return !uses_only(a, chosen); });
    const Network part = part_of(arcs);
    Dual dual = maximise_bound(part, {.slack = options_.slack, .stop_above = needless()}, parent.multipliers,
                               known_paths(parent, part, arcs), [&](const Path& path) { consider(part, path); });
    if (dual.bound > needless() || dual.bound == kInfinity) return;
    if (options_.slack.empty() && (is_root || result_.nodes % 64 == 0)) improve(part, dual);
    Node node{.bound = std::max(dual.bound, parent.bound),
              .number = result_.nodes,
              .arcs = {},
              .chosen = chosen,
              .multipliers = dual.multipliers,
              .paths = {},
              .parts = dual.parts};
    std::vector<double> weights, through;
    weigh(weights, part, dual.multipliers);
    weights_through(through, part, weights);
    const double heaviest = *std::min_element(through.begin(), through.end()) + needless() - dual.bound;
    for (size_t i = 0; i < arcs.size(); ++i)
      if (through[i] <= heaviest) node.arcs.push_back(arcs[i]);
    for (Path& path : dual.paths) {
      for (int32_t& a : path.arcs) a = arcs[static_cast<size_t>(a)];
      node.paths.push_back(std::move(path.arcs));
    }
    open_.push_back(std::move(node));
    std::push_heap(open_.begin(), open_.end(), has_higher_bound);
  }

  void improve(const Network& part, const Dual& dual) {
    const size_t arcs_at_most = result_.nodes == 1 ? 800 : 300;
    for (const Path& path : dual.paths)
      if (const auto better = improve_by_swaps(part, path, dual.multipliers, arcs_at_most)) consider(part, *better);
  }

  // Forgets the arcs that the root's bound has removed.
  void compact(Node& root) {
    std::vector<int32_t> place(network_.arc_count(), -1);
    for (size_t i = 0; i < root.arcs.size(); ++i) place[static_cast<size_t>(root.arcs[i])] = static_cast<int32_t>(i);
    Node compacted{.bound = root.bound,
                   .number = root.number,
                   .arcs = std::vector<int32_t>(root.arcs.size()),
                   .chosen = root.chosen,
                   .multipliers = root.multipliers,
                   .paths = {},
                   .parts = {}};
    std::iota(compacted.arcs.begin(), compacted.arcs.end(), 0);
    for (size_t p = 0; p < root.paths.size(); ++p) {
      std::vector<int32_t> path = root.paths[p];
      for (int32_t& a : path) a = place[static_cast<size_t>(a)];
      if (contains(path, -1)) continue;
      compacted.paths.push_back(std::move(path)), compacted.parts.push_back(root.parts[p]);
    }
    network_ = part_of(root.arcs);
    root = std::move(compacted);
  }

  // Students of few variants, to begin from: of all variants the one that is missed least is given up, again and again.
  void find_few_variants(const Node& root) {
    std::vector<char> allowed(variant_count_, 1);
    std::vector<int32_t> arcs = root.arcs;
    for (size_t left = variant_count_; left > static_cast<size_t>(network_.most_variants); --left) {
      double least = kInfinity;
      size_t missed = variant_count_;
      for (size_t v = 0; v < variant_count_; ++v) {
        if (!allowed[v]) continue;
        std::vector<int32_t> without = arcs;
        std::erase_if(without, [&](int32_t a) {
          return contains(network_.variants[static_cast<size_t>(a)], static_cast<int32_t>(v));
        });
        const Network part = part_of(without);
        const DualOptions options{.slack = options_.slack, .stop_above = std::min(least, ceiling_)};
        const Dual dual = maximise_bound(part, options, root.multipliers, {}, [&](const Path& path) {
          if (left == static_cast<size_t>(network_.most_variants) + 1) consider(part, path);
        });
        if (dual.bound < std::min(least, ceiling_)) least = dual.bound, missed = v;
      }
      if (missed == variant_count_) return;
      allowed[missed] = 0;
      std::erase_if(arcs, [&](int32_t a) { return !uses_only(a, allowed); });
    }
    if (!options_.slack.empty()) return;
    const Network part = part_of(arcs);
    const Dual dual = maximise_bound(part, {.stop_above = needless()}, root.multipliers, {}, [](const Path&) {});
    improve(part, dual);
  }

  Node take() {
    if (open_.size() < kOpenAtMost) {
      std::pop_heap(open_.begin(), open_.end(), has_higher_bound);
    } else {
      const auto newest = std::max_element(open_.begin(), open_.end(),
                                           [](const Node& a, const Node& b) { return a.number < b.number; });
      std::swap(*newest, open_.back());
    }
    Node node = std::move(open_.back());
    open_.pop_back();
    return node;
  }

  void branch(const Node& node) {
    if (node.bound > needless()) return;
    std::vector<double> part(network_.arc_count());  // of the combination
    for (size_t p = 0; p < node.paths.size(); ++p)
      for (const int32_t a : node.paths[p]) part[static_cast<size_t>(a)] += node.parts[p];
    if (variant_count_ == 0)
      branch_on_layer(node, part);
    else if (const int32_t v = variant_to_decide(node, part); v >= 0)
      branch_on_variant(node, v);
    else
      search_decided(node);
  }

  // Where the variants do not matter any more, a search of its own does the rest.
  void search_decided(const Node& node) {
    Network part = part_of(node.arcs);
    part.variants.clear();
    PathSearchOptions options = options_;
    options.multipliers = node.multipliers;
    options.nodes_at_most -= result_.nodes;
    PathSearch search(part, options, judge_);
    search.result_.value = result_.value, search.result_.ids = result_.ids, search.margin_ = margin_;
    PathSearchResult found = search.run({});
    result_.value = found.value, result_.ids = std::move(found.ids), result_.nodes += found.nodes;
    margin_ = search.margin_;
    if (found.bound >= needless()) return;
    Node left = node;  // out of time or nodes
    left.bound = found.bound;
    open_.push_back(std::move(left));
    std::push_heap(open_.begin(), open_.end(), has_higher_bound);
  }

  // The one that the combination uses most, while more may be used than a path may have; else -1.
  int32_t variant_to_decide(const Node& node, const std::vector<double>& part) const {
    std::vector<double> use(variant_count_, -1);
    if (variant_count_ == 0) return -1;
    for (const int32_t a : node.arcs)
      for (const int32_t v : network_.variants[static_cast<size_t>(a)]) {
        double& used = use[static_cast<size_t>(v)];
        used = std::max(used, 0.0) + part[static_cast<size_t>(a)];
      }
    int64_t usable = 0;
    int32_t most = -1;
    for (size_t v = 0; v < variant_count_; ++v) {
      usable += node.chosen[v] || use[v] >= 0;
      if (!node.chosen[v] && use[v] >= 0 && (most < 0 || use[v] > use[static_cast<size_t>(most)]))
        most = static_cast<int32_t>(v);
    }
    return usable > network_.most_variants ? most : -1;
  }

  void branch_on_variant(const Node& node, int32_t v) {
    std::vector<int32_t> without = node.arcs;
    std::erase_if(without, [&](int32_t a) { return contains(network_.variants[static_cast<size_t>(a)], v); });
    add(node, std::move(without), node.chosen);
    std::vector<char> chosen = node.chosen;
    chosen[static_cast<size_t>(v)] = 1;
    add(node, node.arcs, chosen);
  }

  void branch_on_layer(const Node& node, const std::vector<double>& part) {
    std::vector<int32_t> over = arcs_to_part(node, part);
    if (over.size() < 2) return;  // one path is left, and it was considered
    std::vector<double> price(network_.arc_count());
    for (const int32_t a : over)
      for (size_t k = 0; k < node.multipliers.size(); ++k)
        price[static_cast<size_t>(a)] += node.multipliers[k] * network_.costs[k][static_cast<size_t>(a)];
    std::stable_sort(over.begin(), over.end(), [&](int32_t a, int32_t b) {
      return price[static_cast<size_t>(a)] < price[static_cast<size_t>(b)];
    });
    size_t cheap = 1;  // so many that about half of the combination is among them
    double sum = 0, least = kInfinity;
    for (size_t i = 0; i + 1 < over.size(); ++i) {
      sum += part[static_cast<size_t>(over[i])];
      if (const double off = std::abs(sum - 0.5); off < least - 1e-9) least = off, cheap = i + 1;
    }
    std::vector<char> side(network_.arc_count());
    for (size_t i = 0; i < over.size(); ++i) side[static_cast<size_t>(over[i])] = i < cheap ? 1 : 2;
    for (const char other : {1, 2}) {
      std::vector<int32_t> arcs = node.arcs;
      std::erase_if(arcs, [&](int32_t a) { return side[static_cast<size_t>(a)] == other; });
      add(node, std::move(arcs), node.chosen);
    }
  }

  // The arcs over the layer on which the combination's paths disagree most; else over one that has several.
  std::vector<int32_t> arcs_to_part(const Node& node, const std::vector<double>& part) const {
    std::vector<double> disagreement(static_cast<size_t>(network_.layers));
    for (const int32_t a : node.arcs) {
      const auto arc = static_cast<size_t>(a);
      for (int32_t l = network_.from[arc]; l < network_.to[arc]; ++l)
        disagreement[static_cast<size_t>(l)] += 1e-6 + part[arc] * std::max(0.0, 1 - part[arc]);
    }
    const auto layer =
        static_cast<int32_t>(std::max_element(disagreement.begin(), disagreement.end()) - disagreement.begin());
    std::vector<int32_t> over;
    for (const int32_t a : node.arcs)
      if (network_.from[static_cast<size_t>(a)] <= layer && layer < network_.to[static_cast<size_t>(a)])
        over.push_back(a);
    return over;
  }

  Network network_;
  const PathSearchOptions& options_;
  const Judge& judge_;
  PathSearchResult result_;
  std::vector<Node> open_;  // a heap
  std::vector<double> root_multipliers_;
  int64_t next_labels_ = kFirstNodes;
  size_t variant_count_ = 0;
  double margin_ = 0;
  double ceiling_ = kInfinity;  // no path's objective is above it
};

}  // namespace

PathSearchResult search_paths(const Network& network, const PathSearchOptions& options, const Judge& judge,
                              const std::vector<std::vector<int32_t>>& known) {
  return PathSearch(network, options, judge).run(known);
}

}  // namespace tangram
