#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "blocks/file.h"
#include "nas/digest.h"
#include "nas/job_chain.h"
#include "nas/job_ranks.h"
#include "nas/model_verbs.h"
#include "nas/plan.h"
#include "nas/program.h"
#include "nas/site.h"
#include "nas/stages.h"
#include "nas/table.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string config, run_dir, site;
  std::vector<std::string> overrides;
  int64_t nodes = 0, ranks = 0;
  bool dry_run = false, shell = false;
};

/// Every job with as many processes as its stages' plans have work for.
std::vector<ChainJob> sized_chain(const Options& o, const SearchConfig& config, const Site& site) {
  const int64_t most = o.ranks > 0 ? o.ranks : (o.nodes > 0 ? o.nodes : site.nodes) * site.ranks_per_node;
  const bool asked = o.ranks > 0 || o.nodes > 0;
  const ModelConfig teacher = teacher_shape(config);
  std::vector<ChainJob> jobs = job_chain();
  for (const Stage& stage : all_stages()) {
    const int64_t ranks = ranks_of_stage(stage, config, teacher, most, asked);
    for (ChainJob& job : jobs)
      if (std::find(job.stages.begin(), job.stages.end(), stage.name) != job.stages.end())
        job.ranks = std::max(job.ranks, ranks);
  }
  return jobs;
}

/// The folder that has jobs/: above that of the program, in a build and in a bundle.
fs::path home_folder() {
  const fs::path home = fs::read_symlink("/proc/self/exe").parent_path().parent_path();
  if (!fs::exists(home / "jobs/common.sh"))
    throw bad_input(
        "{}: jobs/common.sh is not there; the program has to stand in a folder beside jobs/, as a build or "
        "an unpacked bundle has it",
        home.string());
  return home;
}

void check_slurm() {
  constexpr double kPatience = 20;
  const ProgramOutcome ping = run_program({"scontrol", "ping"}, kPatience);
  constexpr std::string_view kInstead = "or run all stages here, without Slurm: tangram run CONFIG";
  if (ping.code == 127)
    throw bad_input("no Slurm here: scontrol is not on the PATH; call this on a login node of the cluster, {}",
                    kInstead);
  if (ping.code != 0 || ping.out.find(" UP") == std::string::npos)
    throw Error(fmt::format("Slurm's controller does not answer; `scontrol ping` says: {}{}; try again later, {}",
                            ping.out, ping.err, kInstead));
}

/// Two chains in one run directory would take it from each other.
void check_none_in_queue(const fs::path& run_dir) {
  const std::vector<ChainJob> earlier = read_jobs(run_dir);
  std::string alive;
  for (const auto& [id, state] : job_states(earlier))
    if (is_in_queue(state)) alive += " " + id;
  if (!alive.empty())
    throw bad_input("{}: jobs of this run are in the queue:{}; wait for them (tangram status {}), or first: scancel{}",
                    run_dir.string(), alive, run_dir.string(), alive);
}

class Submission {
 public:
  Submission(const Options& o, const VerbInput& in, const SearchConfig& config)
      : o_(o), in_(in), config_(config), site_(read_site(site_file(o.site, o.config))), home_(home_folder()) {
    jobs_ = sized_chain(o, config, site_);
  }

  void print() const {
    fmt::print(in_.out, "mkdir -p {}\n", shell_quoted(logs().string()));
    for (const auto& [name, value] : environment()) fmt::print(in_.out, "export {}={}\n", name, shell_quoted(value));
    std::string before;
    for (const ChainJob& job : jobs_) {
      // The shell puts the number of the job before in place of the variable.
      const std::string after = before.empty() ? "" : fmt::format(" --dependency=afterok:\"${}\"", before);
      fmt::print(in_.out, "{}=$({}{}{})\n", job.name, shell_quoted(sbatch(job)), after,
                 " " + shell_quoted(script(job)));
      before = job.name;
    }
  }

  void submit() {
    check_slurm();
    check_none_in_queue(config_.run_dir);
    open_run_directory();
    for (const auto& [name, value] : environment()) setenv(name.c_str(), value.c_str(), 1);
    for (size_t i = 0; i < jobs_.size(); ++i) {
      std::vector<std::string> command = sbatch(jobs_[i]);
      if (i > 0) command.push_back("--dependency=afterok:" + jobs_[i - 1].id);
      for (const std::string& word : script(jobs_[i])) command.push_back(word);
      const ProgramOutcome asked = run_program(command);
      jobs_[i].id =
          asked.out.substr(0, asked.out.find_first_of("; \n"));  // and the cluster's name, if there are several
      if (asked.code == 0 && !jobs_[i].id.empty()) continue;
      for (size_t j = 0; j < i; ++j) run_program({"scancel", jobs_[j].id});
      throw Error(
          fmt::format("sbatch takes no job {}, and none of the others was left in the queue: {}; it was called as: {}",
                      jobs_[i].name, asked.err, shell_quoted(command)));
    }
    write_jobs(config_.run_dir, jobs_);
  }

  void print_submitted() const {
    const std::string run_dir = config_.run_dir.lexically_proximate(fs::current_path()).string();
    if (in_.json) {
      nlohmann::ordered_json json = {{"run_dir", run_dir}};
      for (const ChainJob& job : jobs_) json["jobs"][job.name] = {{"id", job.id}, {"ranks", job.ranks}};
      return fmt::print(in_.out, "{}\n", json.dump(2));
    }
    Table table{.header = {"job", "id", "ranks", "stages"}, .rows = {}};
    for (const ChainJob& job : jobs_)
      table.rows.push_back(
          {job.name, job.id, std::to_string(job.ranks), fmt::format("{}", fmt::join(job.stages, ", "))});
    fmt::print(in_.out, "{}\nLogs are in {}/logs; tangram status {} shows how far it is\n", format_table(table),
               run_dir, run_dir);
  }

 private:
  fs::path logs() const { return config_.run_dir / "logs"; }

  std::vector<std::pair<std::string, std::string>> environment() const {
    return {{"TANGRAM_HOME", home_.string()}, {"TANGRAM_SITE", site_.file.string()}};
  }

  std::vector<std::string> sbatch(const ChainJob& job) const {
    std::vector<std::string> command = {"sbatch", "--parsable", "--kill-on-invalid-dep=yes",
                                        "--job-name=tangram-" + job.name,
                                        "--output=" + (logs() / "%x-%j.log").string()};
    for (std::string& option : sbatch_options(site_, job.ranks)) command.push_back(std::move(option));
    return command;
  }

  std::vector<std::string> script(const ChainJob& job) const {
    std::vector<std::string> words = {(home_ / "jobs" / (job.name + ".sbatch")).string(),
                                      fs::absolute(o_.config).string(), "--run-dir", config_.run_dir.string()};
    for (const std::string& setting : o_.overrides) words.insert(words.end(), {"--set", setting});
    if (in_.threads > 0) words.insert(words.end(), {"--threads", std::to_string(in_.threads)});
    if (in_.device == Device::cuda || !site_.gpus.empty()) words.insert(words.end(), {"--device", "cuda"});
    return words;
  }

  /// Makes the folder one of this run, as the first stage would; refuses what is another's, or held by a process.
  void open_run_directory() const {
    Digest teacher;
    teacher.add(config_sections(config_).at("teacher"));
    const RunDirectory run(config_.run_dir, teacher.text());
    write_file_atomically(config_.run_dir / "config.yaml", write_config(config_, config_.run_dir));
    create_folder(logs());
  }

  const Options& o_;
  const VerbInput& in_;
  const SearchConfig& config_;
  const Site site_;
  const fs::path home_;
  std::vector<ChainJob> jobs_;
};

void run_submit(const Options& o, const VerbInput& in) {
  if (o.shell) return fmt::print(in.out, "{}", site_shell(read_site(site_file(o.site, o.config))));
  if (o.nodes > 0 && o.ranks > 0)
    throw bad_input("--nodes and --ranks: one says it; ranks are nodes times ranks_per_node");
  SearchConfig config = read_search_config(o.config, o.overrides);
  if (!o.run_dir.empty()) config.run_dir = fs::absolute(o.run_dir).lexically_normal();
  check_inputs(config);
  Submission submission(o, in, config);
  if (o.dry_run) return submission.print();
  submission.submit();
  submission.print_submitted();
}

}  // namespace

std::function<void(const VerbInput&)> add_submit(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  app.add_option("CONFIG", o->config, "Search config, a YAML file")->required();
  app.add_option("--site", o->site,
                 "Description of the cluster (see configs/site.yaml) instead of $TANGRAM_SITE, site.yaml beside the "
                 "config, or ~/.config/tangram/site.yaml")
      ->type_name("FILE");
  app.add_option(
         "--nodes", o->nodes,
         "Nodes for the stages that spread over processes, instead of the site's, of which each stage asks for no more "
         "than its plan has work for")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--ranks", o->ranks, "The same as a number of processes")->check(CLI::Range(1, 1 << 20));
  app.add_option("--run-dir", o->run_dir, "Folder of the run instead of the config's run_dir; all nodes see it");
  app.add_option("--set", o->overrides, "Override a key: --set distill.tokens=1e6; repeat for more")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_flag("--dry-run", o->dry_run, "Print the commands, and do nothing");
  app.add_flag("--shell", o->shell, "Print what a job script evaluates: how programs are started on this cluster");
  return [o](const VerbInput& in) { run_submit(*o, in); };
}

}  // namespace tangram
