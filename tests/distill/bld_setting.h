#pragma once
#include "distill/bld.h"
#include "tests/distill/small_batch.h"

namespace tangram {

/// A small teacher, its statistics, and replacements of its layers.
struct BldSetting {
  Model teacher = small_teacher();
  Context ctx{Context::Options{.threads = 2}};
  std::vector<LayerStatistics> statistics;

  BldSetting() {
    const std::vector<Batch> batches{small_batch(100), small_batch(101)};
    collect_statistics(
        teacher_in_memory(teacher), batches, [&](int64_t, const LayerStatistics& s) { statistics.push_back(s); }, ctx);
  }

  Replacement plain(int64_t layer, Subblock subblock, const char* name) const {
    Replacement r{.first_layer = layer, .layer_count = 1, .attention = {}, .ffn = {}};
    r.of(subblock) = parse_choice(subblock, name, teacher.config);
    return r;
  }
  std::vector<Replacement> all_of_layer(int64_t layer) const {
    std::vector<Replacement> all;
    for (const char* name : {"gqa_1", "linear", "window_3"}) all.push_back(plain(layer, Subblock::attention, name));
    for (const char* name : {"ffn_24", "ffn_8", "linear"}) all.push_back(plain(layer, Subblock::ffn, name));
    return all;
  }
  Replacement pair(int64_t layer) const {
    Replacement r = plain(layer, Subblock::attention, "no_op");
    r.ffn = teacher_choice(Subblock::ffn, teacher.config);
    return r;
  }
  Replacement span(int64_t first, int64_t count, const char* attention, const char* ffn) const {
    Replacement r = plain(first, Subblock::attention, attention);
    r.layer_count = count;
    r.ffn = parse_choice(Subblock::ffn, ffn, teacher.config);
    return r;
  }
  BldOptions options() const {
    BldOptions o;
    o.batch_tokens = kSmallBatchTokens;
    o.init = Init::prune;
    o.schedule.learning_rate_peak = 3e-3;
    o.schedule.steps = 40;
    return o;
  }
  BldTrainer trainer(std::vector<Replacement> replacements, const BldOptions& o) {
    return {teacher, std::move(replacements), o, [&](int64_t layer) { return statistics[size_t(layer)]; }, ctx};
  }
};

/// Between the parameters of two entries of one dtype.
inline double largest_difference(const LibraryEntry& a, const LibraryEntry& b) {
  double largest = 0;
  const auto value = [](Tensor x, int64_t r, int64_t c) {
    return x.dtype == DType::f32 ? double(x.row<float>(r)[c]) : double(x.row<bf16>(r)[c]);
  };
  for (Subblock s : {Subblock::attention, Subblock::ffn}) {
    if (!a.of(s)) continue;
    for (size_t p = 0; p < a.of(s)->params.size(); ++p) {
      const Tensor x = a.of(s)->params[p].values, y = b.of(s)->params[p].values;
      for (int64_t r = 0; r < x.rows; ++r)
        for (int64_t c = 0; c < x.cols; ++c) largest = std::max(largest, std::abs(value(x, r, c) - value(y, r, c)));
    }
  }
  return largest;
}

}  // namespace tangram
