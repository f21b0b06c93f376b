#include "nas/student_scorer.h"

#include <fstream>
#include <sstream>

#include "nas/digest.h"
#include "nas/run_files.h"
#include "puzzle/limits.h"

namespace tangram {
namespace {

// Students that are measured between two writes of what is known.
constexpr size_t kAtOnce = 64;

}  // namespace

StudentScorer::StudentScorer(const StageInput& in, const ScoreTable& table, Metric metric)
    : in_(in),
      table_(table),
      metric_(size_t(metric)),
      sign_(table.metrics[metric_index(table, std::string(kMetricNames[metric_]))].higher_is_better ? -1 : 1),
      teacher_(load_teacher(in.config, in.run_dir, in.config.distill.training.dtype)),
      teacher_there_(move_model(teacher_, in.ctx.device, in.ctx)),
      tokens_(load_tokens(in.config, in.run_dir, /*validation=*/true)),
      sequences_(std::clamp<int64_t>(in.config.score.tokens / tokens_.sequence_length, 1, tokens_.sequences)),
      at_once_(std::clamp<int64_t>(kScoringTokens / tokens_.sequence_length, 1, sequences_)),
      file_(in.work / fmt::format("students-{}.csv", kMetricNames[metric_])) {
  read_known();
}

std::vector<double> StudentScorer::measure(std::span<const int64_t> student, std::span<const Rows> others) {
  std::vector<Rows> missing;
  for (const Rows& rows : others)
    if (!known_.count(rows)) missing.push_back(rows);
  Progress progress(in_.console, "search: measure students", "students", double(missing.size()));
  for (size_t i = 0; i < missing.size(); i += kAtOnce) {
    const auto some = std::span(missing).subspan(i, std::min(kAtOnce, missing.size() - i));
    measure_missing(student, some);
    keep(some);
    progress.update(double(i + some.size()));
  }
  std::vector<double> losses;
  for (const Rows& rows : others) losses.push_back(sign_ * known_.at(rows));
  return losses;
}

void StudentScorer::measure_missing(std::span<const int64_t> student, std::span<const Rows> missing) {
  const Model model = move_model(assembled(student), in_.ctx.device, in_.ctx);
  const std::vector<RowSubblock> own = subblocks_of(table_, student);
  const int64_t T = tokens_.sequence_length;
  ReplaceOneScorer scorer(teacher_there_, model, at_once_ * T, in_.ctx);
  std::vector<double> sums(missing.size());
  for (int64_t done = 0; done < sequences_; done += at_once_) {
    std::vector<int64_t> numbers;
    for (int64_t s = done; s < std::min(done + at_once_, sequences_); ++s) numbers.push_back(s);
    const Batch batch = read_batch(tokens_, numbers);
    scorer.start_batch({batch.tokens, batch.targets, batch.lengths, T});
    for (size_t i = 0; i < missing.size(); ++i) {
      const Exchange exchange = exchange_between(own, subblocks_of(table_, missing[i]));
      std::vector<LibraryEntry> moved;
      const std::vector<SubblockWeights> instead = weights_of(exchange.instead, moved);
      for (const MetricValues& values : scorer.score(exchange.first, exchange.last, instead))
        sums[i] += values[metric_];
    }
  }
  for (size_t i = 0; i < missing.size(); ++i) known_[missing[i]] = sums[i] / double(sequences_);
}

const LibraryEntry& StudentScorer::entry(int64_t row) {
  if (const auto found = entries_.find(row); found != entries_.end()) return found->second;
  const Replacement r = replacement_of(table_.rows[size_t(row)], teacher_.config);
  return entries_[row] = load_entry(library_dir(in_.run_dir), r, teacher_);
}

LibraryEntry StudentScorer::there_of(const LibraryEntry& entry) {
  const int64_t bytes = entry_bytes(entry.replacement, teacher_.config, teacher_.dtype);
  const auto memory = std::make_shared<Arena>(in_.ctx.device == Device::cpu ? 0 : bytes, in_.ctx.device);
  LibraryEntry there = move_entry(entry, teacher_.config, *memory, in_.ctx);
  there.memory.push_back(memory);
  return there;
}

std::vector<SubblockWeights> StudentScorer::weights_of(std::span<const RowSubblock> subblocks,
                                                       std::vector<LibraryEntry>& moved) {
  std::map<int64_t, size_t> there;  // row -> place in `moved`
  std::vector<SubblockWeights> weights;
  for (const RowSubblock& s : subblocks) {
    const auto [at, is_new] = there.try_emplace(s.row, moved.size());
    if (is_new) moved.push_back(there_of(entry(s.row)));
    weights.push_back(*moved[at->second].of(s.subblock));
  }
  return weights;
}

Model StudentScorer::assembled(std::span<const int64_t> rows) {
  std::vector<LibraryEntry> entries;
  for (const int64_t row : rows) entries.push_back(entry(row));
  return assemble(teacher_, entries);
}

// A line for the table that the rows are of, then one for each student: its loss, its rows.
void StudentScorer::read_known() {
  std::ifstream file(file_);
  std::string line;
  if (!std::getline(file, line) || line != fingerprint(scores_path(in_.run_dir))) {
    std::ofstream(file_, std::ios::trunc) << fingerprint(scores_path(in_.run_dir)) << '\n';
    return;
  }
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    double loss = 0;
    Rows rows;
    if (!(fields >> loss)) break;
    for (int64_t row = 0; fields >> row;) rows.push_back(row);
    if (line.back() != ';') break;  // cut off by a kill
    known_[rows] = loss;
  }
}

void StudentScorer::keep(std::span<const Rows> students) {
  std::ofstream file(file_, std::ios::app);
  for (const Rows& rows : students) {
    file << fmt::format("{}", known_.at(rows));
    for (const int64_t row : rows) file << ' ' << row;
    file << " ;\n";
  }
  if (!file.flush()) throw Error(fmt::format("{}: cannot be written", file_.string()));
}

}  // namespace tangram
