#include "nas/job_chain.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "blocks/file.h"
#include "kernels/error.h"
#include "nas/program.h"

namespace tangram {
namespace {

constexpr int64_t kMaxJobsBytes = 1 << 20;
constexpr double kPatience = 20;  // for Slurm's controller

}  // namespace

std::vector<ChainJob> job_chain() {
  return {{"prepare", {"pretrain", "prepare"}}, {"distill", {"distill"}}, {"score", {"score"}},
          {"search", {"measure", "search"}},    {"uptrain", {"uptrain"}}, {"export", {"evaluate", "export", "report"}}};
}

std::vector<ChainJob> read_jobs(const std::filesystem::path& run_dir) {
  const std::filesystem::path path = run_dir / "jobs.json";
  if (!std::filesystem::exists(path)) return {};
  try {
    std::vector<ChainJob> jobs;
    const nlohmann::json json = nlohmann::json::parse(read_text_file(path, kMaxJobsBytes));
    for (const nlohmann::json& job : json.at("jobs")) {
      jobs.push_back({job.at("name"), job.at("stages"), job.at("ranks"), job.at("id")});
      const std::string& id = jobs.back().id;
      if (id.empty() || id.find_first_not_of("0123456789") != std::string::npos)
        throw bad_input("{}: '{}' is no job's number", path.string(), id);
    }
    return jobs;
  } catch (const nlohmann::json::exception&) {
    throw bad_input("{} is damaged; delete it, and `squeue --me` shows what is in the queue", path.string());
  }
}

void write_jobs(const std::filesystem::path& run_dir, const std::vector<ChainJob>& jobs) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const ChainJob& job : jobs)
    list.push_back({{"name", job.name}, {"id", job.id}, {"stages", job.stages}, {"ranks", job.ranks}});
  write_file_atomically(run_dir / "jobs.json", nlohmann::ordered_json{{"jobs", list}}.dump(2) + "\n");
}

std::map<std::string, std::string> job_states(const std::vector<ChainJob>& jobs) {
  std::map<std::string, std::string> states;
  for (const ChainJob& job : jobs) states[job.id] = "";
  if (jobs.empty()) return states;
  std::string ids;
  for (const ChainJob& job : jobs) ids += (ids.empty() ? "" : ",") + job.id;
  // Of several jobs squeue leaves out those it does not know; of one it says so, and fails.
  const ProgramOutcome asked =
      run_program({"squeue", "--noheader", "--states=all", "--format=%i %T %r", "--jobs=" + ids}, kPatience);
  if (asked.code != 0 && asked.err.find("Invalid job id") == std::string::npos) return states;
  for (auto& [id, state] : states) state = "ended";
  std::istringstream lines(asked.out);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string id, state, reason;
    words >> id >> state >> reason;
    if (states.count(id))
      states[id] = state == "PENDING" && reason != "None" ? fmt::format("{} ({})", state, reason) : state;
  }
  return states;
}

bool is_in_queue(std::string_view state) {
  constexpr std::string_view kAlive[] = {"PENDING",      "RUNNING",     "REQUEUED",     "CONFIGURING",  "COMPLETING",
                                         "SUSPENDED",    "RESIZING",    "SIGNALING",    "STAGE_OUT",    "STOPPED",
                                         "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"};
  return std::find(std::begin(kAlive), std::end(kAlive), state.substr(0, state.find(' '))) != std::end(kAlive);
}

}  // namespace tangram
