#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tangram {

/// One job of a run: stages that run one after the other. jobs/<name>.sbatch is its script.
struct ChainJob {
  std::string name;
  std::vector<std::string> stages;
  int64_t ranks = 1;
  std::string id = {};  ///< Slurm's, once it is submitted
};

/// All jobs of a run, each behind the one before it, without their ranks.
std::vector<ChainJob> job_chain();

/// `<run>/jobs.json`: the chain that was submitted last; none if there is none. Throws Error (bad_input) if the file is
/// damaged.
std::vector<ChainJob> read_jobs(const std::filesystem::path& run_dir);
void write_jobs(const std::filesystem::path& run_dir, const std::vector<ChainJob>& jobs);

/// What squeue says of jobs: `RUNNING`, `PENDING (Dependency)`, `COMPLETED`. `ended` where the controller answers but
/// does not know a job any more; empty where none answers.
std::map<std::string, std::string> job_states(const std::vector<ChainJob>& jobs);
/// Whether a job in that state may still run.
bool is_in_queue(std::string_view state);

}  // namespace tangram
