#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "nas/job_chain.h"
#include "nas/model_verbs.h"
#include "nas/stages.h"
#include "nas/table.h"
#include "nas/units.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

/// How far a stage's training had come when it last said so (training_loop.h).
struct TrainingProgress {
  std::string label, note;
  int64_t step = 0, steps = 0;
  double tokens_per_second = 0, seconds_left = 0, age_s = 0;
};

struct StageStatus {
  std::string name, state;  ///< the state is that of reason_incomplete, or "complete"
  std::optional<TrainingProgress> progress = {};
  int64_t checkpoint = 0;  ///< steps done by the newest whole one; 0: none
  std::string job = {}, job_state = {};
};

std::optional<TrainingProgress> read_progress(const fs::path& path) try {
  constexpr int64_t kMaxBytes = 1 << 16;
  const nlohmann::json json = nlohmann::json::parse(read_text_file(path, kMaxBytes));
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  return TrainingProgress{json.at("label"),
                          json.at("note"),
                          json.at("step"),
                          json.at("steps"),
                          json.at("tokens_per_second"),
                          json.at("seconds_left"),
                          std::max(0.0, now - json.at("written_at").get<double>())};
} catch (const std::exception&) {  // being removed at this moment, or of another version
  return std::nullopt;
}

/// Steps that `step-<steps>` in a path stands for; 0 for other folders.
int64_t steps_of_folder(const fs::path& folder) {
  const std::string name = folder.filename().string();
  return name.starts_with("step-") ? parse_count(std::string_view(name).substr(5)).value_or(0) : 0;
}

/// Fills in what the work folder of a stage tells: a stage may train several things, of which the last counts.
void look_at_work(const fs::path& work, StageStatus& status) {
  std::error_code gone;
  for (auto it = fs::recursive_directory_iterator(work, gone); !gone && it != fs::recursive_directory_iterator();
       it.increment(gone)) {
    const fs::path& path = it->path();
    if (path.filename() == "manifest.json")
      status.checkpoint = std::max(status.checkpoint, steps_of_folder(path.parent_path()));
    if (path.filename() != "progress.json") continue;
    const auto progress = read_progress(path);
    if (progress && (!status.progress || progress->age_s < status.progress->age_s)) status.progress = progress;
  }
}

std::vector<StageStatus> look_at(const fs::path& run_dir) {
  const SearchConfig config = read_search_config(run_dir / "config.yaml");
  const std::vector<ChainJob> jobs = read_jobs(run_dir);
  const std::map<std::string, std::string> states = job_states(jobs);
  std::vector<StageStatus> stages;
  for (const Stage& stage : all_stages()) {
    if (stage.is_part_of && !stage.is_part_of(config)) continue;
    const std::string reason = reason_incomplete(run_dir, stage.name);
    StageStatus& status =
        stages.emplace_back(StageStatus{std::string(stage.name), reason.empty() ? "complete" : reason});
    if (!reason.empty()) look_at_work(run_dir / "work" / stage.name, status);
    for (const ChainJob& job : jobs)
      if (std::find(job.stages.begin(), job.stages.end(), stage.name) != job.stages.end())
        status.job = job.id, status.job_state = states.at(job.id);
  }
  return stages;
}

std::string describe(const StageStatus& s) {
  std::string text;
  const auto add = [&](const std::string& part) { text += (text.empty() ? "" : ", ") + part; };
  if (const auto& p = s.progress) {
    add(fmt::format("step {} of {}", p->step, p->steps));
    add(format_count(p->tokens_per_second) + " tokens/s");
    if (p->step < p->steps) add(format_seconds(p->seconds_left) + " left");
    if (!p->note.empty()) add(p->note);
    add(format_seconds(p->age_s) + " ago");
  }
  if (s.checkpoint > 0) add(fmt::format("checkpoint of step {}", s.checkpoint));
  return text;
}

void print_json(const std::vector<StageStatus>& stages, std::FILE* out) {
  nlohmann::ordered_json json = {{"stages", nlohmann::ordered_json::array()}};
  for (const StageStatus& s : stages) {
    nlohmann::ordered_json stage = {{"name", s.name}, {"state", s.state}};
    if (const auto& p = s.progress)
      stage["progress"] = {{"label", p->label},
                           {"step", p->step},
                           {"steps", p->steps},
                           {"tokens_per_second", p->tokens_per_second},
                           {"seconds_left", p->seconds_left},
                           {"note", p->note},
                           {"age_seconds", p->age_s}};
    if (s.checkpoint > 0) stage["checkpoint_step"] = s.checkpoint;
    if (!s.job.empty()) stage["job"] = {{"id", s.job}, {"state", s.job_state.empty() ? "unknown" : s.job_state}};
    json["stages"].push_back(stage);
  }
  fmt::print(out, "{}\n", json.dump(2));
}

void run_status(const std::string& run, const VerbInput& in) {
  const fs::path run_dir = fs::absolute(run).lexically_normal();
  if (!fs::exists(run_dir / "config.yaml") || !fs::exists(run_dir / "run.json"))
    throw bad_input(
        "{}: no run directory: it has no config.yaml with a run.json; give the folder that `tangram run` or "
        "`tangram submit` names",
        run);
  const std::vector<StageStatus> stages = look_at(run_dir);
  if (in.json) return print_json(stages, in.out);
  Table table{.header = {"stage", "state", "progress"}, .rows = {}};
  const bool has_jobs = std::any_of(stages.begin(), stages.end(), [](const StageStatus& s) { return !s.job.empty(); });
  if (has_jobs) table.header.insert(table.header.end(), {"job", "Slurm says"});
  for (const StageStatus& s : stages) {
    table.rows.push_back({s.name, s.state, describe(s)});
    if (has_jobs) table.rows.back().insert(table.rows.back().end(), {s.job, s.job_state.empty() ? "-" : s.job_state});
  }
  fmt::print(in.out, "{}", format_table(table));
}

}  // namespace

std::function<void(const VerbInput&)> add_status(CLI::App& app) {
  const auto run = std::make_shared<std::string>();
  app.add_option("RUN", *run, "Run directory")->required();
  return [run](const VerbInput& in) { run_status(*run, in); };
}

}  // namespace tangram
