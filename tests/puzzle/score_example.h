#pragma once
#include <gtest/gtest.h>

#include <fstream>

#include "puzzle/hdf5.h"
#include "puzzle/score_table.h"
#include "tests/blocks/folder.h"

namespace tangram {

namespace fs = std::filesystem;

/// A folder for files of scores.
struct ScoreFolder : ::testing::Test {
  fs::path path(const std::string& name = "scores.h5") const { return folder_.path / name; }

 private:
  TestFolder folder_;
};

/// Two layers with plain variants, a pair and a span; every number is different, and some are missing.
inline ScoreTable example_table() {
  ScoreTable table{.layer_count = 2};
  const size_t kl = add_metric(table, {"kl_divergence", "nats", false, 0});
  row_of(table, 0, 1, "gqa_4", "").teacher = true;
  row_of(table, 0, 1, "gqa_2", "").values[kl] = 0.25;
  row_of(table, 1, 1, "gqa_4", "").teacher = true;
  row_of(table, 1, 1, "no_op", "").values[kl] = 3.5;
  row_of(table, 0, 1, "", "ffn_64").teacher = true;
  row_of(table, 1, 1, "", "ffn_64").teacher = true;
  row_of(table, 1, 1, "no_op", "ffn_32").scored = false;
  row_of(table, 0, 2, "gqa_4", "ffn_64").standard_errors[kl] = 0.125;
  const size_t top = add_metric(table, {"top_1", "1", true, 1});
  const size_t chat = add_scenario(table, {"chat", 128, 64, 8, Precision::bf16});
  const size_t batch = add_scenario(table, {"batch", 16, 512, 32, Precision::f32});
  double n = 1;
  const auto next = [&n] { return ++n; };
  for (TableRow& row : table.rows) {
    row.parameters = next();
    row.values[top] = 1 / next();
    row.costs[chat] = {
        .weight_bytes = next(), .kv_cache_bytes = next(), .prefill_seconds = next(), .decode_seconds = next()};
    row.costs[chat].workspace_bytes = 1000 + row.parameters;
    row.costs[chat].is_disturbed = int64_t(row.parameters) % 2;
    row.costs[batch].weight_bytes = next();
  }
  table.outside[chat] = {
      .weight_bytes = next(), .kv_cache_bytes = 0, .prefill_seconds = next(), .decode_seconds = next()};
  table.outside[chat].is_disturbed = 1;
  table.outside_parameters = next();
  table.workspace_bytes[batch] = next();
  table.scenarios[batch].own_kv_precision = Precision::fp8;
  table.scenarios[batch].tensor_parallel = 4;
  table.sources[chat] = {"measured", 1.25, 1.5, 0.0625, 0.125, 9, 2};
  table.attributes = {{"teacher_digest", "0123abcd"}, {"scoring_tokens", "4096"}, {"remark", ""}};
  return table;
}

/// Everything as text, so that tables with NaN compare.
inline std::string text_of(const ScoreTable& t) {
  std::string text = fmt::format("{} {}\n", t.layer_count, t.outside_parameters);
  const auto add = [&](const ScenarioCosts& c) {
    text += fmt::format(" [{} {} {} {} {} {}]", c.weight_bytes, c.kv_cache_bytes, c.prefill_seconds, c.decode_seconds,
                        c.workspace_bytes, c.is_disturbed);
  };
  for (const auto& m : t.metrics) text += fmt::format("{} {} {} {}\n", m.name, m.units, m.higher_is_better, m.teacher);
  for (size_t s = 0; s < t.scenarios.size(); ++s) {
    const Scenario& c = t.scenarios[s];
    text += fmt::format("{} {} {} {} {} {} {} {}", c.name, c.input_tokens, c.output_tokens, c.concurrency,
                        name_of(c.precision), name_of(c.kv_precision()), c.tensor_parallel, t.workspace_bytes[s]);
    const CostSource& source = t.sources[s];
    text += fmt::format(" '{}' {} {} {} {}", source.name, source.prefill_factor, source.decode_factor,
                        source.prefill_error, source.decode_error);
    text += fmt::format(" {} of {}", source.disturbed_timings, source.timings);
    add(t.outside[s]);
  }
  for (const TableRow& r : t.rows) {
    text += fmt::format("\n{} {} '{}' '{}' {} {} {} {} {}", r.first_layer, r.layer_count, r.attention, r.ffn, r.teacher,
                        r.scored, r.parameters, fmt::join(r.values, ","), fmt::join(r.standard_errors, ","));
    for (const ScenarioCosts& c : r.costs) add(c);
  }
  for (const auto& [name, value] : t.attributes) text += fmt::format("\n{}={}", name, value);
  return text;
}

inline std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A file with the digest that belongs to it, whatever it holds.
inline void write_sealed(const fs::path& path, std::string image) {
  seal(image);
  std::ofstream(path, std::ios::binary | std::ios::trunc) << image;
}

/// What bad input is told.
inline std::string refusal_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.failure, Failure::bad_input) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return {};
}

}  // namespace tangram
