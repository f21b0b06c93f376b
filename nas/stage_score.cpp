#include "blocks/file.h"
#include "blocks/safetensors.h"
#include "nas/digest.h"
#include "nas/plan.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "puzzle/entry_stream.h"
#include "puzzle/score_table.h"

namespace tangram {
namespace {

std::vector<TableMetric> table_metrics() {
  std::vector<TableMetric> metrics;
  for (size_t m = 0; m < kMetricCount; ++m) {
    const bool is_nats = m == size_t(Metric::kl_divergence) || m == size_t(Metric::lm_loss);
    const bool is_share = m == size_t(Metric::top_1) || m == size_t(Metric::top_5) || m == size_t(Metric::top_10);
    metrics.push_back(
        {.name = std::string(kMetricNames[m]), .units = is_nats ? "nats" : "1", .higher_is_better = is_share});
  }
  return metrics;
}

// Metrics of every sequence for the teacher (row 0) and every replacement: what the means and standard errors are of,
// and what a checkpoint keeps. f32, so that a resumed run adds up the same numbers.
struct Samples {
  int64_t models, sequences;
  std::vector<float> values;  // (models, sequences, metrics)

  Samples(int64_t m, int64_t s) : models(m), sequences(s), values(size_t(m * s) * kMetricCount) {}
  void set(int64_t model, int64_t first_sequence, const SequenceMetrics& metrics) {
    float* out = values.data() + size_t(model * sequences + first_sequence) * kMetricCount;
    for (const MetricValues& sequence : metrics)
      for (double v : sequence) *out++ = static_cast<float>(v);
  }
  MeanAndError of(int64_t model, size_t metric) const {
    std::vector<double> all;
    for (int64_t s = 0; s < sequences; ++s)
      all.push_back(double(values[size_t(model * sequences + s) * kMetricCount + metric]));
    return mean_and_error(all);
  }
  Tensor view() { return view_of(values.data(), models, sequences * int64_t(kMetricCount)); }
};

// Scores every replacement on batch after batch, with a checkpoint behind each.
void fill_samples(Samples& samples, const std::vector<Replacement>& replacements, const Model& teacher,
                  const TokenDataset& tokens, int64_t batch_tokens, const StageInput& in) {
  const std::filesystem::path checkpoint = in.work / "samples.safetensors";
  int64_t done = 0;  // sequences
  if (std::filesystem::exists(checkpoint)) {
    const SafeTensors file = read_safetensors(checkpoint);
    copy(samples.view(), file.at("samples", samples.view().rows, samples.view().cols));
    done = std::stoll(file.metadata.at("sequences"));
    in.console.say("score: goes on after {} of {} sequences", done, samples.sequences);
  }
  Progress progress(in.console, fmt::format("score {} replacements", replacements.size()), "sequences",
                    double(samples.sequences), double(done));
  const Model teacher_there = move_model(teacher, in.ctx.device, in.ctx);
  ReplaceOneScorer scorer(teacher_there, batch_tokens, in.ctx);
  EntryStream entries(library_dir(in.run_dir), replacements, teacher, in.ctx);
  const int64_t at_once = batch_tokens / tokens.sequence_length;
  while (done < samples.sequences) {
    const int64_t count = std::min(at_once, samples.sequences - done);
    std::vector<int64_t> rows;
    for (int64_t s = done; s < done + count; ++s) rows.push_back(s);
    const Batch batch = read_batch(tokens, rows);
    scorer.start_batch({batch.tokens, batch.targets, batch.lengths, tokens.sequence_length});
    samples.set(0, done, scorer.teacher_metrics());
    for (size_t i = 0; i < replacements.size(); ++i) {
      samples.set(int64_t(i) + 1, done, scorer.score(entries.next()));
      progress.update(double(done) + double(count) * double(i + 1) / double(replacements.size()));
    }
    done += count;
    write_safetensors(checkpoint, std::vector<NamedTensor>{{"samples", samples.view()}},
                      {{"sequences", std::to_string(done)}});
  }
}

// Costs that an earlier run of `measure` has put into the table stay: they were paid for.
void keep_costs(ScoreTable& table, const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return;
  const ScoreTable earlier = read_scores(path);
  for (size_t s = 0; s < earlier.scenarios.size(); ++s) copy_costs(table, earlier, s);
}

}  // namespace

std::vector<std::filesystem::path> run_score(const StageInput& in) {
  const Model teacher = load_teacher(in.config, in.run_dir, in.config.distill.training.dtype);
  const TokenDataset tokens = load_tokens(in.config, in.run_dir, /*validation=*/true);
  const std::vector<Replacement> all = all_replacements(search_space(in.config, teacher.config), teacher.config);
  const int64_t T = tokens.sequence_length;
  const int64_t sequences = std::clamp<int64_t>(in.config.score.tokens / T, 1, tokens.sequences);
  const int64_t batch_tokens = T * sequences_at_once(in.config, teacher.config, sequences,
                                                     in.ctx.device == Device::cuda ? this_gpu() : PlanMachine());

  // The teacher's own subblocks change nothing: their rows carry costs and the teacher's own metrics.
  std::vector<Replacement> changed;
  for (const Replacement& r : all)
    if (needs_training(r, teacher.config) || (r.attention && r.attention->variant->no_op) ||
        (r.ffn && r.ffn->variant->no_op))
      changed.push_back(r);
  Samples samples(int64_t(changed.size()) + 1, sequences);
  fill_samples(samples, changed, teacher, tokens, batch_tokens, in);

  ScoreTable table;
  table.layer_count = teacher.config.num_hidden_layers;
  for (TableMetric metric : table_metrics()) {
    metric.teacher = samples.of(0, table.metrics.size()).mean;
    add_metric(table, metric);
  }
  table.attributes["teacher"] = fingerprint(teacher_path(in.config, in.run_dir));
  table.attributes["scoring_tokens"] = std::to_string(sequences * T);
  for (const Replacement& r : all) {
    TableRow& row = row_of(table, r);
    const auto place = std::find(changed.begin(), changed.end(), r);
    const int64_t model = place == changed.end() ? 0 : 1 + (place - changed.begin());
    row.teacher = model == 0;
    for (size_t m = 0; m < kMetricCount; ++m) {
      const MeanAndError score = samples.of(model, m);
      row.values[m] = score.mean;
      row.standard_errors[m] = score.standard_error;
    }
  }
  keep_costs(table, scores_path(in.run_dir));
  write_scores(table, scores_path(in.run_dir));
  return {scores_path(in.run_dir)};
}

}  // namespace tangram
