#include <chrono>
#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "blocks/file.h"
#include "blocks/safetensors.h"
#include "blocks/sha256.h"
#include "nas/digest.h"
#include "nas/interruption.h"
#include "nas/plan.h"
#include "nas/ranks.h"
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

/// A piece of the work that is done, kept and, after a kill, repeated as a whole: one batch of sequences, on the
/// teacher or on all replacements that begin with one of its layers.
struct Piece {
  int64_t first_sequence, sequences;
  std::vector<size_t> rows;  // of Samples
  double cost;               // in forward passes of one sequence through a layer

  std::string name() const { return fmt::format("{}.{}", first_sequence, rows[0]); }
  std::vector<float> values() const { return std::vector<float>(rows.size() * size_t(sequences) * kMetricCount); }
};

// Metrics of every sequence for the teacher (row 0) and every replacement: what the means and standard errors are of,
// and what is kept of a piece. f32, so that a resumed run adds up the same numbers.
struct Samples {
  int64_t sequences;
  std::vector<float> values;  // (models, sequences, metrics)

  Samples(size_t models, int64_t s) : sequences(s), values(models * size_t(s) * kMetricCount) {}
  void set(const Piece& piece, std::span<const float> of_piece) {
    const size_t count = size_t(piece.sequences) * kMetricCount;
    for (size_t i = 0; i < piece.rows.size(); ++i)
      std::copy_n(of_piece.data() + i * count, count, at(piece.rows[i], piece.first_sequence));
  }
  MeanAndError of(size_t model, size_t metric) const {
    std::vector<double> all;
    for (int64_t s = 0; s < sequences; ++s)
      all.push_back(double(values[(model * size_t(sequences) + size_t(s)) * kMetricCount + metric]));
    return mean_and_error(all);
  }

 private:
  float* at(size_t model, int64_t sequence) {
    return values.data() + (model * size_t(sequences) + size_t(sequence)) * kMetricCount;
  }
};

/// Scores replacements on all ranks, each of which keeps what it has done in files of its own, and reads those of all.
class Scoring {
 public:
  Scoring(const StageInput& in, const Model& teacher, const std::vector<Replacement>& replacements,
          const TokenDataset& tokens, int64_t sequences, int64_t at_once)
      : in_(in),
        teacher_(teacher),
        replacements_(replacements),
        tokens_(tokens),
        at_once_(at_once),
        folder_(in.work / "pieces"),
        samples_(replacements.size() + 1, sequences) {
    for (int64_t s = 0; s < sequences; s += at_once) add_pieces(s, std::min(at_once, sequences - s));
  }

  const Samples& run() {
    std::filesystem::create_directories(folder_);
    std::vector<const Piece*> missing = read_files();
    // What is missing is what the leader misses: a shared file system may show others less.
    const std::string list = in_.world.broadcast(names_of(missing), 0);
    std::erase_if(missing,
                  [&](const Piece* p) { return list.find(fmt::format(" {} ", p->name())) == std::string::npos; });
    if (missing.size() < pieces_.size())
      in_.console.say("score: goes on after {} of {} pieces", pieces_.size() - missing.size(), pieces_.size());
    SharedWork work(in_.world);
    score_pieces(share_of(missing));
    work.finish();
    for (const std::string& signal : in_.world.gather(std::string(interruption())))
      if (!signal.empty()) throw interrupted("behind the pieces of score that are done");
    if (leads(in_.world)) wait_for_files();
    return samples_;
  }

 private:
  void add_pieces(int64_t first_sequence, int64_t count) {
    const ModelConfig& c = teacher_.config;
    double layer_parameters = 0;
    for (const Subblock s : {Subblock::attention, Subblock::ffn})
      layer_parameters += double(parameter_count(teacher_choice(s, c), c));
    const double head = 2 * double(c.vocab_size) * double(c.hidden_size) / layer_parameters;  // student's and teacher's
    std::map<int64_t, Piece> by_layer;
    by_layer[-1] = {first_sequence, count, {0}, head * double(count)};
    for (size_t i = 0; i < replacements_.size(); ++i) {
      const int64_t layer = replacements_[i].first_layer;
      Piece& piece = by_layer.emplace(layer, Piece{first_sequence, count, {}, 0}).first->second;
      piece.rows.push_back(i + 1);
      piece.cost += (head + double(c.num_hidden_layers - layer)) * double(count);
    }
    for (auto& [layer, piece] : by_layer) pieces_.push_back(std::move(piece));
  }

  static std::string names_of(const std::vector<const Piece*>& pieces) {
    std::string names;
    for (const Piece* piece : pieces) names += fmt::format(" {} ", piece->name());
    return names;
  }

  /// Fills the samples from the files of all ranks, and returns the pieces that are in none. A damaged file counts as
  /// none.
  std::vector<const Piece*> read_files() {
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      if (entry.path().extension() != ".safetensors") continue;
      try {
        const SafeTensors file = read_safetensors(entry.path());
        for (const Piece& piece : pieces_) {
          const auto tensor = file.tensors.find(piece.name());
          if (tensor == file.tensors.end() || tensor->second.bytes() != int64_t(piece.values().size() * sizeof(float)))
            continue;
          const std::string_view bytes(tensor->second.as<char>(), size_t(tensor->second.bytes()));
          const auto digest = file.metadata.find(piece.name());
          if (digest == file.metadata.end() || digest->second != digest_bytes(bytes))
            throw bad_input("{}: piece {} is damaged", entry.path().string(), piece.name());
          samples_.set(piece, {tensor->second.as<float>(), size_t(tensor->second.size())});
          found.insert(piece.name());
        }
      } catch (const Error& damaged) {
        in_.console.say("score: {}; what it had is scored again", damaged.what());
      }
    }
    std::vector<const Piece*> missing;
    for (const Piece& piece : pieces_)
      if (!found.contains(piece.name())) missing.push_back(&piece);
    return missing;
  }

  /// A shared file system may show what others have written a while later.
  void wait_for_files() {
    constexpr int kTries = 600;
    for (int i = 0; i < kTries; ++i) {
      if (read_files().empty()) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    throw Error(
        fmt::format("{}: pieces that other ranks have scored are not to be seen here after {} s; is the run "
                    "directory on a file system that all nodes share?",
                    folder_.string(), kTries / 5));
  }

  /// This rank's share of them: consecutive, so that a batch has few ranks, and of equal cost.
  std::vector<const Piece*> share_of(const std::vector<const Piece*>& missing) const {
    double total = 0, before = 0;
    for (const Piece* piece : missing) total += piece->cost;
    std::vector<const Piece*> mine;
    for (const Piece* piece : missing) {
      const double middle = before + piece->cost / 2;
      if (static_cast<int>(middle / total * in_.world.size()) == in_.world.rank()) mine.push_back(piece);
      before += piece->cost;
    }
    return mine;
  }

  void score_pieces(const std::vector<const Piece*>& mine) {
    double cost = 0, done = 0;
    std::vector<Replacement> in_order;
    for (const Piece* piece : mine) {
      cost += piece->cost;
      for (const size_t row : piece->rows)
        if (row > 0) in_order.push_back(replacements_[row - 1]);
    }
    if (mine.empty()) return;
    Progress progress(in_.console, fmt::format("score {} replacements", replacements_.size()), "sequences",
                      double(samples_.sequences));
    const Model there = move_model(teacher_, in_.ctx.device, in_.ctx);
    ReplaceOneScorer scorer(there, at_once_ * tokens_.sequence_length, in_.ctx);
    EntryStream entries(library_dir(in_.run_dir), in_order, teacher_, in_.ctx);
    Batch batch;
    int64_t started = -1;  // first sequence of the batch at work
    for (const Piece* piece : mine) {
      if (piece->first_sequence != started) {
        started = piece->first_sequence;
        std::vector<int64_t> rows(static_cast<size_t>(piece->sequences));
        std::iota(rows.begin(), rows.end(), started);
        batch = read_batch(tokens_, rows);
        scorer.start_batch({batch.tokens, batch.targets, batch.lengths, tokens_.sequence_length});
      }
      std::vector<float> values;
      for (const size_t row : piece->rows)
        for (const MetricValues& sequence : row == 0 ? scorer.teacher_metrics() : scorer.score(entries.next()))
          for (const double v : sequence) values.push_back(static_cast<float>(v));
      done += piece->cost;
      progress.update(double(samples_.sequences) * done / cost);
      const bool stops = !interruption().empty();
      keep(*piece, std::move(values), stops || piece == mine.back());
      if (stops) return;
    }
  }

  /// Adds a piece to those that the next file gets; a file is written every few seconds, and for the last piece.
  void keep(const Piece& piece, std::vector<float> values, bool is_last) {
    constexpr std::chrono::seconds kBetweenFiles{2};
    finished_.emplace_back(piece.name(), std::move(values));
    const auto now = std::chrono::steady_clock::now();
    if (!is_last && now - last_file_ < kBetweenFiles) return;
    std::vector<NamedTensor> tensors;
    std::map<std::string, std::string> digests;
    for (auto& [name, of_piece] : finished_) {
      tensors.push_back({name, view_of(of_piece.data(), 1, std::ssize(of_piece))});
      digests[name] = digest_bytes({reinterpret_cast<const char*>(of_piece.data()), of_piece.size() * sizeof(float)});
    }
    // Named after the first piece in it, which no other file has.
    write_safetensors(folder_ / (tensors[0].name + ".safetensors"), tensors, digests);
    finished_.clear();
    last_file_ = now;
  }

  const StageInput& in_;
  const Model& teacher_;
  const std::vector<Replacement>& replacements_;
  const TokenDataset& tokens_;
  const int64_t at_once_;
  const std::filesystem::path folder_;
  std::vector<Piece> pieces_;
  Samples samples_;
  std::vector<std::pair<std::string, std::vector<float>>> finished_;
  std::chrono::steady_clock::time_point last_file_ = std::chrono::steady_clock::now();
};

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
  const int64_t at_once = sequences_at_once(in.config, teacher.config, sequences,
                                            in.ctx.device == Device::cuda ? this_gpu() : PlanMachine());

  // The teacher's own subblocks change nothing: their rows carry costs and the teacher's own metrics.
  std::vector<Replacement> changed;
  for (const Replacement& r : all)
    if (needs_training(r, teacher.config) || (r.attention && r.attention->variant->no_op) ||
        (r.ffn && r.ffn->variant->no_op))
      changed.push_back(r);
  Scoring scoring(in, teacher, changed, tokens, sequences, at_once);
  const Samples& samples = scoring.run();
  if (in.world.rank() > 0) return {scores_path(in.run_dir)};

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
    const size_t model = place == changed.end() ? 0 : size_t(1 + (place - changed.begin()));
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
