#include "puzzle/score_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "kernels/error.h"
#include "score_example.h"

namespace tangram {
namespace {

using ::testing::HasSubstr;

using ScoreTableTest = ScoreFolder;

std::string output_of(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen(command.c_str(), "r");
  char buffer[4096];
  while (const size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
  ::pclose(pipe);
  return output;
}

TEST_F(ScoreTableTest, ReadsBackWhatWasWritten) {
  const ScoreTable table = example_table();
  write_scores(table, path());
  EXPECT_EQ(text_of(read_scores(path())), text_of(table));
  EXPECT_EQ(std::distance(fs::directory_iterator(path().parent_path()), {}), 1) << "nothing else is left";
}

TEST_F(ScoreTableTest, TablesWithoutRowsMetricsOrScenariosReadBack) {
  ScoreTable table{.layer_count = 3};
  write_scores(table, path());
  EXPECT_EQ(text_of(read_scores(path())), text_of(table));
  row_of(table, 2, 1, "gqa_1", "");
  write_scores(table, path());
  EXPECT_EQ(text_of(read_scores(path())), text_of(table));
  add_scenario(table, {"chat", 1, 1, 1, Precision::f16});
  write_scores(table, path());
  EXPECT_EQ(text_of(read_scores(path())), text_of(table));
}

TEST_F(ScoreTableTest, CostsMoveToAnotherTable) {
  ScoreTable from = example_table(), to{.layer_count = 2};
  row_of(to, 1, 1, "no_op", ""), row_of(to, 1, 1, "gqa_1", "");
  copy_costs(to, from, 1);
  copy_costs(to, from, 0);
  ASSERT_EQ(to.scenarios.size(), 2u);
  EXPECT_EQ(to.scenarios[1], from.scenarios[0]);
  EXPECT_EQ(to.sources[1].decode_factor, 1.5);
  EXPECT_EQ(to.rows[0].costs[1].decode_seconds, from.rows[3].costs[0].decode_seconds);
  EXPECT_TRUE(std::isnan(to.rows[1].costs[1].decode_seconds));
  forget_costs(to, 1);
  EXPECT_TRUE(std::isnan(to.rows[0].costs[1].decode_seconds));
  EXPECT_EQ(to.sources[1].name, "");
}

TEST_F(ScoreTableTest, PiecesCanBeAddedLater) {
  ScoreTable table = example_table();
  const size_t rows = table.rows.size();
  EXPECT_EQ(&row_of(table, 0, 1, "gqa_2", ""), &table.rows[1]);
  EXPECT_EQ(table.rows.size(), rows);
  EXPECT_EQ(add_metric(table, {"lm_loss", "nats", false, 2}), 2u);
  EXPECT_TRUE(std::isnan(table.rows[3].values[2]));
  EXPECT_EQ(table.rows[3].values[0], 3.5);
  EXPECT_EQ(add_scenario(table, table.scenarios[0]), 0u);
  EXPECT_FALSE(std::isnan(table.rows[3].costs[0].weight_bytes)) << "measured costs are kept";
  EXPECT_EQ(add_scenario(table, {"chat", 128, 64, 9, Precision::bf16}), 0u);
  EXPECT_TRUE(std::isnan(table.rows[3].costs[0].weight_bytes)) << "costs of other settings are not";
  check_table(table, "table");
}

TEST_F(ScoreTableTest, EqualTablesAreEqualBytesAtAnyTime) {
  write_scores(example_table(), path("a.h5"));
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5 would count modification times in seconds
  write_scores(example_table(), path("b.h5"));
  EXPECT_EQ(bytes_of(path("a.h5")), bytes_of(path("b.h5")));
}

// Every array as an independent reader shows it, in the order of the file; the values are example_table()'s by hand.
TEST_F(ScoreTableTest, H5pySeesEveryArrayWithItsLabels) {
  if (std::system("/usr/bin/python3 -c 'import h5py' 2>/dev/null") != 0) GTEST_SKIP() << "no python3-h5py";
  write_scores(example_table(), path());
  std::ofstream(path("read.py")) << R"(
import h5py, sys
f = h5py.File(sys.argv[1])
names = []
f.id.links.iterate(lambda name: names.append(name.decode()), idx_type=h5py.h5.INDEX_CRT_ORDER)
netcdf = 'CLASS', 'NAME', 'DIMENSION_LIST', 'REFERENCE_LIST'
for name in names:
  a = f[name]
  is_scale, text = h5py.h5ds.is_scale(a.id), h5py.check_string_dtype(a.dtype)
  print(name, 'is a dimension' if is_scale else '(' + ' x '.join(d[0].name[1:] for d in a.dims) + ')',
        text.encoding if text else a.dtype,
        *[f'{key}="{value.decode()}"' for key, value in a.attrs.items() if key not in netcdf])
  print(' ', *([t or '-' for t in a.asstr()[:]] if text else ['%.4g' % v for v in a[()].flat]), sep='  ')
  if is_scale:
    users = [(f[r].name[1:], axis) for r, axis in a.attrs['REFERENCE_LIST']]
    assert users == [(n, i) for n in names for i, d in enumerate(f[n].dims) if len(d) and d[0] == a], users
    assert a.attrs['NAME'].decode() == name
print(*[f'{key}={value.decode()}' for key, value in f.attrs.items()], sep='\n')
)";
  const std::string output =
      output_of(fmt::format("/usr/bin/python3 {} {} 2>&1", path("read.py").string(), path().string()));
  EXPECT_EQ(output, R"(layer is a dimension int64
   0  1
outside_parameters () float64 long_name="embedding, head and final norm" units="1"
   61
replacement is a dimension utf-8 long_name="layers and their new subblocks"
   0/attention-gqa_4  0/attention-gqa_2  1/attention-gqa_4  1/attention-no_op  0/ffn-ffn_64  1/ffn-ffn_64  1/block-no_op-ffn_32  0-1/block-gqa_4-ffn_64
first_layer (replacement) int64
   0  0  1  1  0  1  1  0
layer_count (replacement) int64
   1  1  1  1  1  1  1  2
attention (replacement) utf-8 long_name="new attention; empty: the teacher's stays"
   gqa_4  gqa_2  gqa_4  no_op  -  -  no_op  gqa_4
ffn (replacement) utf-8 long_name="new FFN; empty: the teacher's stays"
   -  -  -  -  ffn_64  ffn_64  ffn_32  ffn_64
is_teacher (replacement) int64 long_name="1: the teacher's own subblock"
   1  0  1  0  1  1  0  0
is_scored (replacement) int64 long_name="1: scored; 0: values are sums of its parts'"
   1  1  1  1  1  1  0  1
parameters (replacement) float64 units="1"
   2  9  16  23  30  37  44  51
metric is a dimension utf-8
   kl_divergence  top_1
metric_units (metric) utf-8
   nats  1
higher_is_better (metric) int64
   0  1
teacher_value (metric) float64 long_name="units: metric_units"
   0  1
value (replacement x metric) float64 coordinates="first_layer layer_count attention ffn" long_name="units: metric_units"
   nan  0.3333  0.25  0.1  nan  0.05882  3.5  0.04167  nan  0.03226  nan  0.02632  nan  0.02222  nan  0.01923
standard_error (replacement x metric) float64 coordinates="first_layer layer_count attention ffn" long_name="units: metric_units"
   nan  nan  nan  nan  nan  nan  nan  nan  nan  nan  nan  nan  nan  nan  0.125  nan
attention_variant is a dimension utf-8
   gqa_4  gqa_2  no_op
attention_kl_divergence (layer x attention_variant) float64 units="nats"
   nan  0.25  nan  nan  nan  3.5
attention_top_1 (layer x attention_variant) float64 units="1"
   0.3333  0.1  nan  0.05882  nan  0.04167
ffn_variant is a dimension utf-8
   ffn_64
ffn_kl_divergence (layer x ffn_variant) float64 units="nats"
   nan  nan
ffn_top_1 (layer x ffn_variant) float64 units="1"
   0.03226  0.02632
scenario is a dimension utf-8
   chat  batch
input_tokens (scenario) int64
   128  16
output_tokens (scenario) int64
   64  512
concurrency (scenario) int64
   8  32
precision (scenario) utf-8
   bf16  f32
kv_precision (scenario) utf-8
   bf16  fp8
tensor_parallel (scenario) int64 long_name="devices, each with a part of every matrix"
   1  4
cost_source (scenario) utf-8 long_name="measured, or the hardware description that times are modelled from"
   measured  -
prefill_factor (scenario) float64 long_name="a whole model's time, in sums of its parts'" units="1"
   1.25  1
decode_factor (scenario) float64 long_name="a whole model's time, in sums of its parts'" units="1"
   1.5  1
prefill_error (scenario) float64 long_name="relative error bar of a whole model's time" units="1"
   0.0625  nan
decode_error (scenario) float64 long_name="relative error bar of a whole model's time" units="1"
   0.125  nan
timings (scenario) float64 long_name="timings that the times are made of" units="1"
   9  0
disturbed_timings (scenario) float64 long_name="of these, taken on a busy machine" units="1"
   2  0
workspace_bytes (scenario) float64 units="byte"
   nan  62
outside_weight_bytes (scenario) float64 long_name="embedding, head and final norm" units="byte"
   58  nan
weight_bytes (replacement x scenario) float64 coordinates="first_layer layer_count attention ffn" units="byte"
   4  8  11  15  18  22  25  29  32  36  39  43  46  50  53  57
outside_kv_cache_bytes (scenario) float64 long_name="embedding, head and final norm" units="byte"
   0  nan
kv_cache_bytes (replacement x scenario) float64 coordinates="first_layer layer_count attention ffn" units="byte"
   5  nan  12  nan  19  nan  26  nan  33  nan  40  nan  47  nan  54  nan
outside_prefill_seconds (scenario) float64 long_name="embedding, head and final norm" units="s"
   59  nan
prefill_seconds (replacement x scenario) float64 coordinates="first_layer layer_count attention ffn" units="s"
   6  nan  13  nan  20  nan  27  nan  34  nan  41  nan  48  nan  55  nan
outside_decode_seconds (scenario) float64 long_name="embedding, head and final norm" units="s"
   60  nan
decode_seconds (replacement x scenario) float64 coordinates="first_layer layer_count attention ffn" units="s"
   7  nan  14  nan  21  nan  28  nan  35  nan  42  nan  49  nan  56  nan
outside_is_disturbed (scenario) float64 long_name="1: timed on a busy machine" units="1"
   1  nan
is_disturbed (replacement x scenario) float64 coordinates="first_layer layer_count attention ffn" units="1"
   0  nan  1  nan  0  nan  1  nan  0  nan  1  nan  0  nan  1  nan
subblock_workspace_bytes (replacement x scenario) float64 coordinates="first_layer layer_count attention ffn" units="byte"
   1002  nan  1009  nan  1016  nan  1023  nan  1030  nan  1037  nan  1044  nan  1051  nan
Conventions=CF-1.8
Format=tangram scores 1
remark=
scoring_tokens=4096
teacher_digest=0123abcd
)");
}

TEST_F(ScoreTableTest, H5dumpReadsEverything) {
  if (std::system("h5dump --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no h5dump";
  write_scores(example_table(), path());
  const std::string output = output_of("h5dump " + path().string() + " 2>&1");
  EXPECT_THAT(output, HasSubstr("\"1/block-no_op-ffn_32\""));
  EXPECT_THAT(output, HasSubstr("DIMENSION_SCALE"));
  EXPECT_THAT(output, ::testing::Not(HasSubstr("h5dump error")));
}

TEST_F(ScoreTableTest, AFullDiskLeavesTheOldFile) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  write_scores(example_table(), path());
  const std::string before = bytes_of(path());
  fs::create_symlink("/dev/full", path(fmt::format(".scores.h5.{}.tmp", ::getpid())));
  EXPECT_THROW(write_scores(ScoreTable{.layer_count = 1}, path()), Error);
  EXPECT_EQ(bytes_of(path()), before);
}

TEST_F(ScoreTableTest, WrongTablesAreRefused) {
  const auto refused = [](auto&& change) {
    ScoreTable table = example_table();
    change(table);
    return refusal_of([&] { check_table(table, "scores.h5"); });
  };
  EXPECT_THAT(refused([](auto& t) { t.rows[1].first_layer = 2; }), HasSubstr("scores.h5: replacement 1: replaces 1"));
  EXPECT_THAT(refused([](auto& t) { t.rows[6].layer_count = INT64_MAX; }), HasSubstr("layers from 1 on, of 2"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].attention = "GQA 2"; }), HasSubstr("spelled"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].attention = ""; }), HasSubstr("replaces nothing"));
  EXPECT_THAT(refused([](auto& t) { t.rows[7].ffn = ""; }), HasSubstr("both"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].attention = "gqa_4"; }), HasSubstr("twice"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].teacher = true; }), HasSubstr("two teacher's attention"));
  EXPECT_THAT(refused([](auto& t) { t.rows[6].teacher = true; }), HasSubstr("two teacher's attention"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].values.pop_back(); }), HasSubstr("has 1 values"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].standard_errors[0] = -1; }), HasSubstr("standard error -1"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].costs[0].kv_cache_bytes = -1; }), HasSubstr("-1 bytes"));
  EXPECT_THAT(refused([](auto& t) { t.rows[1].costs[0].decode_seconds = INFINITY; }), HasSubstr("inf seconds"));
  EXPECT_THAT(refused([](auto& t) { t.metrics[1].name = "kl_divergence"; }), HasSubstr("twice"));
  EXPECT_THAT(refused([](auto& t) { t.metrics[1].name = "a/b"; }), HasSubstr("spelled"));
  EXPECT_THAT(refused([](auto& t) { t.scenarios[1].name = "chat"; }), HasSubstr("twice"));
  EXPECT_THAT(refused([](auto& t) { t.scenarios[1].concurrency = -1; }), HasSubstr("-1 is no count"));
  EXPECT_THAT(refused([](auto& t) { t.outside.pop_back(); }), HasSubstr("outside"));
  EXPECT_THAT(refused([](auto& t) { t.sources.pop_back(); }), HasSubstr("sources for 1"));
  EXPECT_THAT(refused([](auto& t) { t.sources[0].prefill_factor = 0; }), HasSubstr("0 times the sum"));
  EXPECT_THAT(refused([](auto& t) { t.sources[0].decode_factor = NAN; }), HasSubstr("nan times the sum"));
  EXPECT_THAT(refused([](auto& t) { t.sources[0].decode_error = -1; }), HasSubstr("relative error -1"));
  EXPECT_THAT(refused([](auto& t) { t.sources[0].name = "a\n"; }), HasSubstr("plain text"));
  EXPECT_THAT(refused([](auto& t) { t.scenarios[1].tensor_parallel = 0; }), HasSubstr("0 is no count of devices"));
  EXPECT_THAT(refused([](auto& t) { t.attributes["x"] = std::string("a\0b", 3); }), HasSubstr("attribute 'x'"));
  EXPECT_THAT(refused([](auto& t) { t.layer_count = 0; }), HasSubstr("0 layers"));
}

TEST_F(ScoreTableTest, AWrongTableIsNotWritten) {
  ScoreTable table = example_table();
  table.rows[1].standard_errors[0] = -1;
  EXPECT_THAT(refusal_of([&] { write_scores(table, path()); }), HasSubstr("scores.h5: replacement 1: standard error"));
  EXPECT_FALSE(fs::exists(path()));
}

TEST_F(ScoreTableTest, UnknownNamesAreRefusedWithTheKnown) {
  const ScoreTable table = example_table();
  EXPECT_THAT(refusal_of([&] { metric_index(table, "kl_divergance"); }), HasSubstr("did you mean 'kl_divergence'?"));
  EXPECT_THAT(refusal_of([&] { scenario_index(table, "x"); }), HasSubstr("known: chat, batch"));
}

TEST_F(ScoreTableTest, ReplacementsComeBackFromTheirNames) {
  ModelConfig config;
  config.hidden_size = 64, config.intermediate_size = 64, config.num_hidden_layers = 2, config.head_dim = 16;
  config.num_attention_heads = 4, config.num_key_value_heads = 4, config.vocab_size = 8;
  ScoreTable table = example_table();
  const Replacement pair = replacement_of(table.rows[6], config);
  EXPECT_EQ(pair.name(), "block-no_op-ffn_32");
  EXPECT_EQ(&row_of(table, pair), &table.rows[6]);
  table.rows[1].attention = "gqa_3";
  EXPECT_THROW(replacement_of(table.rows[1], config), Error);
}

}  // namespace
}  // namespace tangram
