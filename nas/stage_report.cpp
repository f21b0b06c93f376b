#include <algorithm>
#include <cmath>

#include "blocks/file.h"
#include "nas/architecture_file.h"
#include "nas/evaluation_file.h"
#include "nas/request_text.h"
#include "nas/run_files.h"
#include "nas/stages.h"
#include "nas/table.h"
#include "nas/taken_limits.h"
#include "puzzle/limits.h"

namespace tangram {
namespace {

constexpr int64_t kMostServersBytes = 1 << 24;

std::string with_error(const MeanAndError& m) { return fmt::format("{:.4f} ± {:.4f}", m.mean, m.standard_error); }
std::string percent(double part) { return fmt::format("{:.1f}%", 100 * part); }

double accuracy(const Evaluation& e, const std::string& skill) {
  const auto [right, total] = e.skills.at(skill);
  return total > 0 ? double(right) / double(total) : 1;
}

double mean_accuracy(const Evaluation& e) {
  double sum = 0;
  for (const auto& [skill, count] : e.skills) sum += accuracy(e, skill);
  return sum / double(e.skills.size());
}

std::string label(const Evaluation& e) {
  if (e.method == "teacher") return "teacher";
  return e.state == "assembled" ? e.name : e.name + ", " + e.state;
}

const Evaluation* find(const std::vector<Evaluation>& all, const std::string& name, const std::string& state) {
  for (const Evaluation& e : all)
    if (e.name == name && e.state == state) return &e;
  return nullptr;
}

// One row for the median of the random students, by KL.
std::optional<Evaluation> median_random(const std::vector<Evaluation>& all, const std::string& target) {
  std::vector<Evaluation> random;
  for (const Evaluation& e : all)
    if (e.target == target && e.method == "random") random.push_back(e);
  if (random.empty()) return {};
  std::sort(random.begin(), random.end(), [](const Evaluation& a, const Evaluation& b) {
    return a.metrics[size_t(Metric::kl_divergence)].mean < b.metrics[size_t(Metric::kl_divergence)].mean;
  });
  Evaluation median = random[(random.size() - 1) / 2];
  median.name += fmt::format(" (median of {})", random.size());
  return median;
}

// Losses and agreement of the teacher and of a target's students, best first among their kind.
std::vector<Evaluation> rows_of(const std::vector<Evaluation>& all, const std::string& target) {
  std::vector<Evaluation> rows{all.front()};
  for (const Evaluation& e : all)
    if (e.target == target && e.method != "random") rows.push_back(e);
  if (const auto random = median_random(all, target)) rows.push_back(*random);
  return rows;
}

std::string losses_table(const std::vector<Evaluation>& rows) {
  Table table{.header = {"model", "parameters", "KL to teacher", "loss", "top-1", "top-5", "hidden cosine"},
              .rows = {}};
  const double teacher_parameters = double(rows.front().parameters);
  for (const Evaluation& e : rows)
    table.rows.push_back(
        {label(e), percent(double(e.parameters) / teacher_parameters),
         with_error(e.metrics[size_t(Metric::kl_divergence)]), with_error(e.metrics[size_t(Metric::lm_loss)]),
         percent(e.metrics[size_t(Metric::top_1)].mean), percent(e.metrics[size_t(Metric::top_5)].mean),
         fmt::format("{:.4f}", e.metrics[size_t(Metric::hidden_cosine)].mean)});
  return format_table(table);
}

// Accuracy of every skill, and the share of the teacher's that is preserved on the mean.
std::string skills_table(const std::vector<Evaluation>& rows) {
  Table table{.header = {"model"}, .rows = {}};
  for (const auto& [skill, count] : rows.front().skills) table.header.push_back(skill);
  table.header.insert(table.header.end(), {"mean", "preserved"});
  for (const Evaluation& e : rows) {
    std::vector<std::string> cells{label(e)};
    for (const auto& [skill, count] : e.skills) cells.push_back(fmt::format("{:.1f}", 100 * accuracy(e, skill)));
    cells.push_back(fmt::format("{:.1f}", 100 * mean_accuracy(e)));
    cells.push_back(percent(mean_accuracy(e) / mean_accuracy(rows.front())));
    table.rows.push_back(cells);
  }
  return format_table(table);
}

// Which block each layer got, and the KL of each choice alone: of a block that was trained and scored as one, its own.
std::string layers_table(const ChosenArchitecture& chosen, const ScoreTable& scores) {
  Table table{.header = {"layer", "attention", "KL alone", "ffn", "KL alone", "scored"}, .rows = {}};
  const size_t kl = metric_index(scores, "kl_divergence");
  int64_t layer = 0;
  const auto alone = [&](const ChosenBlock& block, const std::string& attention, const std::string& ffn) {
    for (const TableRow& row : scores.rows)
      if (std::tie(row.first_layer, row.layer_count, row.attention, row.ffn) ==
          std::tie(layer, block.layers, attention, ffn))
        return fmt::format("{:.5f}", row.values[kl]);
    return std::string("-");
  };
  for (const ChosenBlock& block : chosen.blocks) {
    const std::string layers =
        block.layers == 1 ? fmt::format("{}", layer) : fmt::format("{}-{}", layer, layer + block.layers - 1);
    if (block.together)
      table.rows.push_back(
          {layers, block.attention, "", block.ffn, alone(block, block.attention, block.ffn), "together"});
    else
      table.rows.push_back({layers, block.attention, alone(block, block.attention, ""), block.ffn,
                            alone(block, "", block.ffn), "apart"});
    layer += block.layers;
  }
  return format_table(table);
}

// Ranks of values, equal ones sharing the mean of theirs.
std::vector<double> ranks_of(const std::vector<double>& values) {
  std::vector<double> ranks;
  for (const double v : values) {
    const auto less = std::count_if(values.begin(), values.end(), [&](double o) { return o < v; });
    const auto equal = std::count(values.begin(), values.end(), v);
    ranks.push_back(double(less) + double(equal - 1) / 2);
  }
  return ranks;
}

// Spearman's: the correlation of the ranks. NaN where one side has no differences.
double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> ra = ranks_of(a), rb = ranks_of(b);
  const double mean = double(a.size() - 1) / 2;
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i)
    ab += (ra[i] - mean) * (rb[i] - mean), aa += (ra[i] - mean) * (ra[i] - mean), bb += (rb[i] - mean) * (rb[i] - mean);
  return ab / std::sqrt(aa * bb);
}

std::string predicted_table(const std::vector<ChosenArchitecture>& architectures, const std::vector<Evaluation>& all,
                            const std::string& target) {
  Table table{.header = {"architecture", "predicted KL", "measured KL", "ratio"}, .rows = {}};
  std::vector<double> sums, kls;
  for (const ChosenArchitecture& a : architectures) {
    const auto predicted = a.predicted.find("kl_divergence");
    const Evaluation* measured = find(all, a.name, "assembled");
    if (a.target != target || predicted == a.predicted.end() || !measured) continue;
    const double kl = measured->metrics[size_t(Metric::kl_divergence)].mean;
    table.rows.push_back({a.name, fmt::format("{:.4f}", predicted->second), fmt::format("{:.4f}", kl),
                          fmt::format("{:.2f}", kl / predicted->second)});
    sums.push_back(predicted->second), kls.push_back(kl);
  }
  std::string text = format_table(table);
  if (sums.size() > 2)
    text += fmt::format("rank correlation over {} students: {:.2f}\n", sums.size(), rank_correlation(sums, kls));
  return text;
}

// What the teacher took, and which limits of a target its students keep by what they took.
std::string taken_text(const std::vector<ChosenArchitecture>& architectures,
                       const std::vector<MeasuredRuntime>& runtimes, const std::string& target) {
  std::string text;
  for (const MeasuredRuntime& r : runtimes)
    if (r.name == kTeacher)
      text += fmt::format("teacher, {}: {} memory, {} to the first token, {} in all\n", r.scenario,
                          format_bytes(r.memory_bytes()), format_seconds(r.prefill_seconds),
                          format_seconds(r.prefill_seconds + r.decode_seconds));
  for (const ChosenArchitecture& a : architectures)
    for (const MeasuredRuntime& r : runtimes)
      for (const TakenLimit& limit : r.limits)
        if (a.target == target && a.name == r.name)
          text += fmt::format("{}, {}: {}\n", a.name, r.scenario, limit_text(limit));
  return text;
}

// What was predicted of whole students beside what was measured, and how far it was off; nothing if none was.
std::string runtime_table(const std::vector<ChosenArchitecture>& architectures,
                          const std::vector<MeasuredRuntime>& runtimes, const std::string& target) {
  Table table{.header = {"architecture", "scenario", "figure", "predicted", "measured", "error"}, .rows = {}};
  int64_t disturbed = 0, timings = 0;
  for (const ChosenArchitecture& a : architectures)
    for (const MeasuredRuntime& r : runtimes) {
      if (a.target != target || a.name != r.name) continue;
      const auto add = [&](Quantity q, double measured, std::string (*text)(double)) {
        const auto predicted = a.predicted.find(fmt::format("{}.{}", r.scenario, name_of(q)));
        if (predicted == a.predicted.end()) return;
        table.rows.push_back({a.name, r.scenario, std::string(name_of(q)), text(predicted->second), text(measured),
                              fmt::format("{:+.1f} %", 100 * (predicted->second / measured - 1))});
      };
      add(Quantity::time_to_first_token, r.prefill_seconds, format_seconds);
      add(Quantity::latency, r.prefill_seconds + r.decode_seconds, format_seconds);
      add(Quantity::memory, r.memory_bytes(), format_bytes);
      ++timings, disturbed += r.is_disturbed;
    }
  if (table.rows.empty()) return "";
  std::string text = "\nPredicted times and memory beside those of whole models\n\n" + format_table(table) +
                     taken_text(architectures, runtimes, target);
  if (disturbed > 0) text += fmt::format("measured: {}\n", disturbance_text(disturbed, timings, "evaluate"));
  return text;
}

}  // namespace

std::vector<std::filesystem::path> run_report(const StageInput& in) {
  const std::vector<Evaluation> all = read_evaluations(in.run_dir / "evaluation.json");
  const std::vector<MeasuredRuntime> runtimes = read_runtimes(in.run_dir / "runtime.json");
  const ScoreTable scores = read_scores(scores_path(in.run_dir));
  const std::vector<ChosenArchitecture> architectures =
      read_architectures(architecture_path(in.run_dir, "any").parent_path());
  std::string text = disturbance_text(scores);  // of the costs that the search went by
  if (!text.empty()) text += "\n";
  for (const ChosenArchitecture& chosen : architectures) {
    if (!is_healed(chosen)) continue;
    const std::vector<Evaluation> rows = rows_of(all, chosen.target);
    text += fmt::format("Student '{}'\n\n", chosen.name);
    for (const auto& [figure, value] : chosen.predicted) {
      if (figure.ends_with(".memory")) text += fmt::format("  {}: {}\n", figure, format_bytes(value));
      if (figure.ends_with(".throughput")) text += fmt::format("  {}: {} tokens/s\n", figure, format_count(value));
    }
    for (const TargetConfig& target : in.config.constraints)
      if (target.name == chosen.target)
        text += "\nWhat was asked for, and found by the sums\n\n" + request_text(in.config, target, chosen, scores);
    text += "\nWhat each layer got\n\n" + layers_table(chosen, scores);
    text += "\nSum of the scores beside the measured KL\n\n" + predicted_table(architectures, all, chosen.target);
    text += runtime_table(architectures, runtimes, chosen.target);
    text += "\nOn held-out text\n\n" + losses_table(rows);
    if (!rows.front().skills.empty()) text += "\nAccuracy by skill, in percent\n\n" + skills_table(rows);
    text += fmt::format("\nexported to {}; servers\n\n{}\n", export_path("", chosen.name).string(),
                        read_text_file(servers_path(in.run_dir, chosen.name), kMostServersBytes));
  }
  const std::filesystem::path path = in.run_dir / "report.txt";
  write_file_atomically(path, text);
  return {path};
}

}  // namespace tangram
