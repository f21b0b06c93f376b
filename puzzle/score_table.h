#pragma once
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "blocks/architecture.h"
#include "puzzle/scenario.h"

namespace tangram {

inline constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

/// One number that is recorded of every replacement.
struct TableMetric {
  std::string name;   ///< lower case, digits and underscores: kl_divergence
  std::string units;  ///< nats; 1 for shares
  bool higher_is_better = false;
  double teacher = kMissing;  ///< the teacher's own value, 0 for a divergence
};

/// What a part of a model costs in one scenario, for all its sequences together: bytes of one device, seconds in which
/// all devices work on it together. Missing is NaN.
struct ScenarioCosts {
  double weight_bytes = kMissing;
  double kv_cache_bytes = kMissing;   ///< of all input and output tokens
  double prefill_seconds = kMissing;  ///< of all input tokens
  double decode_seconds = kMissing;   ///< of all output tokens, one step after the other
  double workspace_bytes =
      kMissing;                    ///< of activations and scratch memory in a model whose largest subblocks these are
  double is_disturbed = kMissing;  ///< 1: the times were taken while other work kept the machine busy; 0: not
};

/// The source of costs that Tangram's own kernels took.
inline constexpr const char* kMeasured = "measured";

/// Where the times of a scenario come from, and how whole models compare with the sums of their parts.
struct CostSource {
  std::string name = {};                         ///< `measured`, or the description they are modelled from; empty: none
  double prefill_factor = 1, decode_factor = 1;  ///< a whole model takes so many times the sum of its parts
  double prefill_error = kMissing, decode_error = kMissing;  ///< relative error bar of a whole model's times
  double timings = 0;            ///< that the times are made of, where they are measured; those of whole models too
  double disturbed_timings = 0;  ///< of these, taken while other work kept the machine busy: too long, perhaps
};

/// One replacement: its fields, by name so that a table needs no model to be read, and what is known of it.
struct TableRow {
  int64_t first_layer = 0, layer_count = 1;
  std::string attention, ffn;  ///< as Choice::name; empty: the subblock stays the teacher's
  bool teacher =
      false;  ///< the teacher's own subblock, or block; such rows are what a student costs where nothing changes
  bool scored = true;  ///< false: its metrics are sums of its parts'
  double parameters = kMissing;
  std::vector<double> values = {}, standard_errors = {};  ///< (metrics)  of the teacher with this one replacement
  std::vector<ScenarioCosts> costs = {};                  ///< (scenarios)
};

/// Everything the search knows: scores and costs of every replacement. The scoring stage fills the metrics, the
/// measuring stage the costs, in any order; what is not there yet is NaN.
struct ScoreTable {
  int64_t layer_count = 0;
  std::vector<TableMetric> metrics = {};
  std::vector<Scenario> scenarios = {};
  std::vector<TableRow> rows = {};
  double outside_parameters = kMissing;      ///< embedding, head and final norm
  std::vector<ScenarioCosts> outside = {};   ///< (scenarios)  of the same
  std::vector<double> workspace_bytes = {};  ///< (scenarios)  the most of that that any of the rows needs
  std::vector<CostSource> sources = {};      ///< (scenarios)
  std::map<std::string, std::string> attributes =
      {};  ///< facts about the whole table: the teacher's digest, the tokens
};

/// Index of a metric or scenario, added to the table (its values NaN) if it has none of that name. A scenario of the
/// same name but other settings is replaced and its costs are forgotten.
size_t add_metric(ScoreTable& table, const TableMetric& metric);
size_t add_scenario(ScoreTable& table, const Scenario& scenario);

/// Forgets all costs of a scenario.
void forget_costs(ScoreTable& table, size_t scenario);

/// The row of a replacement, added (all NaN) if the table has none. The reference holds until the next row is added.
TableRow& row_of(ScoreTable& table, const Replacement& replacement);
/// The same for names; both empty is refused, and so is a span with only one of them.
TableRow& row_of(ScoreTable& table, int64_t first_layer, int64_t layer_count, const std::string& attention,
                 const std::string& ffn);

/// What a row stands for, with its choices checked against a model. Throws Error (bad_input) for names it does not
/// know.
Replacement replacement_of(const TableRow& row, const ModelConfig& config);

/// Index of the metric or scenario called `name`. Throws Error (bad_input) naming the known ones.
size_t metric_index(const ScoreTable& table, const std::string& name);
size_t scenario_index(const ScoreTable& table, const std::string& name);

/// Throws Error (bad_input; `source` begins its message) unless the table is consistent: sizes agree, rows lie within
/// the layers, names are well-formed, no replacement, metric, scenario or teacher's subblock is there twice, standard
/// errors and byte counts are not negative, and costs are finite or NaN.
void check_table(const ScoreTable& table, const std::string& source);

/// The table as HDF5 with the netCDF-4 conventions (see puzzle/hdf5.h), replaced atomically. Equal tables are equal
/// bytes.
///
///   replacement   first_layer, layer_count, attention, ffn, is_teacher, is_scored, parameters
///   replacement x metric      value, standard_error
///   replacement x scenario    weight_bytes, kv_cache_bytes, prefill_seconds, decode_seconds, subblock_workspace_bytes,
///                 is_disturbed
///   metric        metric_units, higher_is_better, teacher_value
///   scenario      input_tokens, output_tokens, concurrency, precision, kv_precision, tensor_parallel,
///                 outside_weight_bytes, outside_kv_cache_bytes, outside_prefill_seconds, outside_decode_seconds,
///                 outside_is_disturbed, workspace_bytes, cost_source, prefill_factor, decode_factor, prefill_error,
///                 decode_error, timings, disturbed_timings
///   layer x attention_variant, layer x ffn_variant      attention_<metric>, ffn_<metric>: `value` of the
///                 replacements of one subblock again, as a grid; NaN where there is none. For people: not read back.
void write_scores(const ScoreTable& table, const std::filesystem::path& path);

/// Throws Error (bad_input) naming the file, and the array, if a byte is not as it was written or anything is missing
/// or inconsistent. A file from before scenarios had a KV precision of their own, tensor parallelism and sources of
/// their costs is read as measured on one device; one from before timings were watched, as having none; one from before
/// rows had a workspace of their own, as not knowing it.
ScoreTable read_scores(const std::filesystem::path& path);

/// Takes what a scenario costs from another table, for the replacements that both have; added if it is not there.
void copy_costs(ScoreTable& table, const ScoreTable& from, size_t scenario);

}  // namespace tangram
